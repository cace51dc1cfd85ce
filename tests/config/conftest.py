"""A loader for a connector.toml, with an environment of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from connector.config import Config, load
from connector.domain.errors import ConfigError
from connector.platforms.http.settings import Settings as HttpSettings
from connector.platforms.jericommerce.settings import Settings
from connector.platforms.wll.settings import Settings as WllSettings
from connector.platforms.yotpo.settings import Settings as YotpoSettings

MODELS: dict[str, type[BaseModel]] = {
    "http": HttpSettings,
    "jericommerce": Settings,
    "wll": WllSettings,
    "yotpo": YotpoSettings,
}
ACME = """
[[connections]]
name = "acme"
source = "jericommerce"
settings = { program = "acme", api_key = "jk" }
klaviyo = { private_key = "pk_1" }
"""

Loader = Callable[..., Config]
Faults = Callable[..., list[str]]


@pytest.fixture
def read(tmp_path: Path) -> Loader:
    """`read(toml, environ)` writes connector.toml and loads it."""

    def loaded(text: str, environ: dict[str, str] | None = None, *, models: bool = True) -> Config:
        path = tmp_path / "connector.toml"
        path.write_text(text, encoding="utf-8")
        return load(path, environ=environ or {}, settings_models=MODELS if models else None)

    return loaded


@pytest.fixture
def faults(read: Loader) -> Faults:
    """`faults(toml, environ)` returns the faults of an invalid connector.toml."""

    def found(text: str, environ: dict[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(text, environ)
        return list(caught.value.faults)

    return found
