"""Writes the configuration in effect, and the mappings in effect, into a new folder."""

from __future__ import annotations

from pathlib import Path

from connector.config import Config
from connector.config.export import export
from connector.domain.errors import ConfigError
from connector.mapping import load as load_mapping


def write(config: Config, folder: Path) -> list[str]:
    """A line for each file and for each variable to set. Raises ConfigError, with nothing written,
    where a file exists already."""
    texts: dict[str, str] = {}
    mappings: dict[str, str] = {}
    for connection in config.connections:
        name = f"mappings/{connection.name}.toml"
        mappings[connection.name] = name
        texts[name] = load_mapping(connection.mapping, connection.mapping_changes).mapping.text
    made = export(config, mappings)
    texts["connector.toml"] = made.text
    taken = [name for name in texts if (folder / name).exists()]
    if taken:
        raise ConfigError([f"{folder / name}: exists already" for name in taken])
    written: list[str] = []
    for name, text in texts.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        written.append(f"wrote {file}")
    env = folder / ".env"
    variables = [
        f"set {name} in the environment or in {env}: {key}" for name, key in made.variables.items()
    ]
    return written + variables
