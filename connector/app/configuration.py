"""Reads connector.toml as this installation understands it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from connector.config import Config
from connector.config import load as load_config
from connector.platforms.registry import SettingsModels


def read_config(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    complete: bool = True,
) -> Config:
    """The configuration of the files with every platform's settings validated. `environ` replaces
    the process's environment. With `complete=False` settings made at run time may complete it.
    Raises ConfigError."""
    models = SettingsModels()
    return load_config(path, environ=environ, settings_models=models, complete=complete)
