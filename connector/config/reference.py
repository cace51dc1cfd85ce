"""The configuration reference, generated from the models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from connector.config.models import Config
from connector.config.values import allowed_text, field_option, unwrap

_HEAD = """\
# Configuration

Generated from the models in `connector/config`. All keys are set in `connector.toml`, or in the
file that `--config PATH` or `CONNECTOR_CONFIG` selects.

- `${NAME}`, `${NAME:-default}` (the default is used if the variable is unset or empty) and
  `${file:/path}` (one trailing newline is dropped) are expanded in every string. `$$` is a literal
  `$`. A variable that is unset and has no default is a fault. The defaults below are expanded, too.
- A `.env` file beside `connector.toml` is read; variables of the environment override it.
- Relative paths start at the folder of the file that contains them; the default of `mapping` starts
  at the folder of `connector.toml`.
- Files selected by `include` are merged: tables recursively, `[[connections]]` appended. A key in
  two files is a fault.
- Durations are written `"250ms"`, `"20s"`, `"5m"`, `"24h"`, `"3d"`; sizes `"512MB"` (1000) or
  `"512MiB"` (1024).
- `connector check` reports every fault at once; `connector config show` prints the configuration in
  effect.
"""


def reference(settings_models: Mapping[str, type[BaseModel]] | None = None) -> str:
    """Markdown: a table per section of the file, then per platform in `settings_models`."""
    chapters = [_HEAD]
    chapters += [_chapter(title, model) for title, model in _sections(Config, "", False)]
    for source, model in sorted((settings_models or {}).items()):
        chapters += [
            _chapter(f'{title} with `source = "{source}"`', table)
            for title, table in _sections(model, "connections.settings", False)
        ]
    return "\n".join(chapters)


def _sections(
    model: type[BaseModel], path: str, many: bool
) -> Iterator[tuple[str, type[BaseModel]]]:
    if any(_table_of(field) is None for field in model.model_fields.values()):
        heading = f"`[[{path}]]`" if many else f"`[{path}]`"
        yield heading if path else "Top level", model
    for key, field in model.model_fields.items():
        table = _table_of(field)
        if table is not None:
            array = get_origin(unwrap(field.annotation)[0]) is tuple
            yield from _sections(table, f"{path}.{key}".lstrip("."), array)


def _table_of(field: FieldInfo) -> type[BaseModel] | None:
    plain, _ = unwrap(field.annotation)
    if get_origin(plain) is tuple:
        plain = get_args(plain)[0]
    return plain if isinstance(plain, type) and issubclass(plain, BaseModel) else None


def _chapter(title: str, model: type[BaseModel]) -> str:
    rows = [
        f"| `{key}` | {_cell(_kind(field))} | {_cell(_default(field))} | "
        f"{_cell(field.description or '')} |"
        for key, field in model.model_fields.items()
        if _table_of(field) is None
    ]
    head = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {title}", "", *head, *rows, ""])


def _kind(field: FieldInfo) -> str:
    return allowed_text(field.annotation, tuple(field.metadata))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = {} if field.default is PydanticUndefined else field.default
    env = field_option(field, "env")
    if env:
        default = f"${{{env}:-{default if isinstance(default, str) else ''}}}"
    return f"`{_toml(default)}`"


def _toml(value: Any) -> str:
    if isinstance(value, SecretStr):
        return '""'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{}"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
