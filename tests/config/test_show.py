"""`config show`, the reference, and the format of durations and sizes."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from typing import get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from connector.config import Config, reference, show
from connector.config.values import seconds, unwrap, written_duration, written_size
from tests.paths import ROOT

from .conftest import ACME, MODELS, Loader

SECRETIVE = (
    """
[store]
url = "postgresql://user:hunter2@db:5432/c?sslmode=require"
[console]
password = ["hunter2", "hunter2-old"]
[[notify]]
url = "https://hooks.example/hunter2"
"""
    + ACME.replace('"pk_1"', '"hunter2"').replace('"jk"', '"hunter2"')
    + 'actions = { secret = "hunter2" }\n'
)


@pytest.mark.parametrize("models", [True, False])
def test_show_masks_every_secret(models: bool, read: Loader) -> None:
    config = read(SECRETIVE, models=models)
    text = show(config)
    assert "hunter2" not in text
    assert "hunter2" not in repr(config)
    shown = tomllib.loads(text)
    assert shown["store"]["url"] == "postgresql://user:***@db:5432/c?sslmode=require"
    assert shown["console"] == {
        "password": ["***", "***"],
        "viewer_password": [],
        "api_tokens": [],
        "session": "12h",
    }
    assert shown["notify"] == [{"url": "***", "format": "json", "patience": "10m"}]
    (acme,) = shown["connections"]
    assert acme["klaviyo"]["private_key"] == "***"
    assert acme["settings"]["api_key"] == "***"
    assert acme["actions"]["secret"] == ["***"]


def test_show_writes_human_readable_durations_and_sizes(read: Loader) -> None:
    shown = tomllib.loads(show(read(ACME + 'actions = { secret = "s" }\n')))
    assert shown["server"]["shutdown_timeout"] == "20s"
    assert shown["store"]["min_free"] == "512MB"
    assert shown["delivery"]["late_after"] == "24h"
    assert shown["retention"]["timeline"] == "30d"
    (acme,) = shown["connections"]
    assert acme["settings"]["pass_url_refresh"] == "never"
    assert acme["actions"]["look_ups"] == ["0s", "1m", "10m"]
    assert acme["actions"]["dedupe_window"] == "25h"


@given(st.integers(min_value=0, max_value=10**11))
def test_a_written_duration_reads_back(milliseconds: int) -> None:
    assert seconds(written_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("size", "written"), [(0, "0B"), (1, "1B"), (1024, "1KiB"), (2 * 10**9, "2GB"), (1536, "1536B")]
)
def test_written_size(size: int, written: str) -> None:
    assert written_size(size) == written


def _keys(model: type[BaseModel]) -> set[str]:
    found: set[str] = set()
    for key, field in model.model_fields.items():
        plain, _ = unwrap(field.annotation)
        inner = get_args(plain)[0] if get_origin(plain) is tuple else plain
        table = isinstance(inner, type) and issubclass(inner, BaseModel)
        found |= _keys(inner) if table else {f"`{key}`"}
        assert field.description, key
    return found


def test_the_reference_names_every_key() -> None:
    text = reference(MODELS)
    assert [key for key in _keys(Config) if f"| {key} |" not in text] == []


def test_importing_the_configuration_stays_light() -> None:
    heavy = ("httpx", "sqlalchemy", "sqlmodel", "cryptography", "rich", "typer", "asyncio")
    code = f"import sys, connector.config; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.strip() == "[]"
