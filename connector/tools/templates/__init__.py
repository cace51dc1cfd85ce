"""The files that `connector init` writes."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from connector.config.faults import NAME
from connector.config.shipped import shipped_mappings
from connector.config.values import field_option, is_secret, unwrap
from connector.domain.errors import ConfigError
from connector.platforms import registry


def write_empty(folder: Path, *, token: Callable[[], str]) -> list[str]:
    """Write the files of a configuration without a connection; as `write`."""
    values = _server_values(token)
    templates = files("connector.tools.templates")
    config = _fill(templates / "connector.toml", values).partition("[[connections]]")[0]
    variables = _fill(templates / "env", values).partition("\n# A private key of")[0]
    config += "# Connections are added in the console, or as [[connections]] here: docs/guide.md\n"
    return [
        _write(folder / "connector.toml", config, 0o644),
        _write(folder / ".env", variables, 0o600),
        "next: start `connector run`, open http://127.0.0.1:8787/ and sign in with "
        "CONNECTOR_CONSOLE_PASSWORD of .env",
    ]


def _server_values(token: Callable[[], str]) -> dict[str, str]:
    return {
        "{{console_password}}": token(),
        "{{encryption_key}}": base64.urlsafe_b64encode(os.urandom(32)).decode(),
    }


def write(folder: Path, source: str, name: str, *, token: Callable[[], str]) -> list[str]:
    """Write the files of a new configuration; returns one line per file. Existing files are kept,
    except empty ones, which an interrupted run may have left.

    `token` generates a secret. Raises ConfigError for an unknown platform or an invalid name.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            [f"--name: found {name!r}, allowed lower-case letters, digits and hyphens"]
        )
    platform = registry.load(source)
    prefix = name.upper().replace("-", "_")
    fields = platform.settings.model_fields
    tables = {key: table for key, field in fields.items() if (table := _table(field))}
    plain = {key: field for key, field in fields.items() if key not in tables}
    needed = [key for key, field in plain.items() if _is_needed(field)]
    values = {
        "{{source}}": source,
        "{{name}}": name,
        "{{NAME}}": prefix,
        "{{settings}}": "\n".join(
            [f'{key} = "${{{prefix}_{key.upper()}}}"' for key in needed]
            + [_comment(key, field) for key, field in plain.items() if key not in needed]
            + [line for key, table in tables.items() for line in _commented(key, table)]
        ),
        "{{secrets}}": "\n".join(f"{prefix}_{key.upper()}=" for key in needed),
        "{{flow_secret}}": token(),
        **_server_values(token),
    }
    templates = files("connector.tools.templates")
    messages = [
        _write(folder / "connector.toml", _fill(templates / "connector.toml", values), 0o644),
        _write(folder / ".env", _fill(templates / "env", values), 0o600),
    ]
    target = folder / "mappings"
    shipped = shipped_mappings()
    files_of_source = sorted(
        [*shipped.glob(f"{source}*.toml"), *shipped.glob(f"examples/{source}/**/*.*")]
    )
    missing = [f for f in files_of_source if _is_missing(target / f.relative_to(shipped))]
    for file in missing:
        _write_whole(target / file.relative_to(shipped), file.read_text(), 0o644)
    messages.append(f"{'written ' if missing else 'kept    '} mappings/")
    return [*messages, "next: fill in the empty values in .env, then run `connector check`"]


def _is_needed(field: FieldInfo) -> bool:
    """Required settings, and the secrets that callers of the connector present."""
    return (
        field.is_required()
        or bool(field_option(field, "needed"))
        or _is_caller_secret(field.annotation)
    )


def _is_caller_secret(annotation: Any) -> bool:
    return get_origin(unwrap(annotation)[0]) is tuple and is_secret(annotation)


def _table(field: FieldInfo) -> type[BaseModel] | None:
    found, _ = unwrap(field.annotation)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _commented(key: str, table: type[BaseModel]) -> list[str]:
    """A table within the settings, as comments."""
    lines = [_comment(name, field) for name, field in table.model_fields.items()]
    return ["", f"# [connections.settings.{key}]", *lines]


def _comment(key: str, field: FieldInfo) -> str:
    """A comment line with the default; with the meaning where the default has no short form."""
    default: Any = "" if field.is_required() else field.default
    if isinstance(default, str | int | tuple):
        return f"# {key} = {json.dumps(default)}"
    return f"# {key}: {field.description}"


def _fill(template: Any, values: dict[str, str]) -> str:
    text: str = template.read_text()
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def _write(path: Path, text: str, mode: int) -> str:
    if not _is_missing(path):
        return f"kept     {path.name}"
    _write_whole(path, text, mode)
    return f"written  {path.name}"


def _is_missing(path: Path) -> bool:
    return not path.exists() or path.stat().st_size == 0


def _write_whole(path: Path, text: str, mode: int) -> None:
    """Write a file that appears with all of its content, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    part.touch(mode)
    part.write_text(text)
    part.replace(path)
