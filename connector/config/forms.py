"""The keys of a model as fields of a form: how each is entered, and what an entered text means.

Values are as a file has them, so that one validation decides about both.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from connector.config.values import (
    ByteSize,
    DurationRange,
    allowed_text,
    field_option,
    is_secret,
    unwrap,
)

Kind = Literal["text", "secret", "secrets", "choice", "switch", "number", "lines", "rows", "table"]
_TABLES = (dict, Mapping)
_WORDS = {"api": "API", "url": "URL", "guid": "GUID", "id": "ID", "oauth": "OAuth"}


class InvalidEntry(ValueError):
    """A text that means no value of its field. The message never quotes it."""


@dataclass(frozen=True, slots=True)
class FormField:
    """One key. `key` is dotted as in a file, `default` what applies without an entry. A `needed`
    field must be filled before the connection may run. `columns` are the two keys of a row."""

    key: str
    label: str
    help: str
    kind: Kind
    allowed: str = ""
    default: str = ""
    needed: bool = False
    choices: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def secret(self) -> bool:
        return self.kind in ("secret", "secrets")

    @property
    def multiline(self) -> bool:
        return self.kind in ("lines", "rows", "table", "secrets")

    def read(self, text: str) -> Any:
        """The value that a file would have. Raises InvalidEntry."""
        text = text.strip()
        match self.kind:
            case "switch":
                return text == "yes"
            case "number":
                return _number(text)
            case "lines":
                return _lines(text)
            case "rows":
                return [_row(line, self.columns) for line in _lines(text)]
            case "table" | "secrets":
                return _table(text)
        return text

    def written(self, value: Any) -> str:
        """A value as this field shows it; empty for a secret."""
        if value is None or self.secret:
            return ""
        match self.kind:
            case "switch":
                return "yes" if value else "no"
            case "lines":
                return "\n".join(map(str, value))
            case "rows":
                name, count = self.columns
                return "\n".join(f"{row[name]} = {row[count]}" for row in value)
            case "table":
                return tomli_w.dumps(_without_none(value))
        return f"{value:g}" if isinstance(value, float) else str(value)


def form_fields(
    model: type[BaseModel], prefix: str = "", only: Sequence[str] = ()
) -> list[FormField]:
    """The keys of a model below `prefix`; with `only` these, in this order."""
    names = only or model.model_fields
    return [_field(f"{prefix}{name}", name, model.model_fields[name]) for name in names]


def _field(key: str, name: str, field: FieldInfo) -> FormField:
    plain, metadata = unwrap(field.annotation, tuple(field.metadata))
    kind, columns = _kind(plain, metadata)
    made = FormField(
        key=key,
        label=_label(name),
        help=field.description or "",
        kind=kind,
        allowed=allowed_text(field.annotation, tuple(field.metadata)),
        needed=field.is_required() or bool(field_option(field, "needed")),
        choices=tuple(map(str, get_args(plain))) if kind == "choice" else (),
        columns=columns,
    )
    default = None if field.default is PydanticUndefined else field.default
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json")
    shown = "" if default in (None, "", (), {}) else made.written(default)
    return replace(made, default=shown)


def _label(name: str) -> str:
    words = [_WORDS.get(word, word) for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def _kind(plain: Any, metadata: tuple[Any, ...]) -> tuple[Kind, tuple[str, ...]]:
    if is_secret(plain):
        return ("secrets" if get_origin(plain) in _TABLES else "secret"), ()
    if get_origin(plain) is Literal:
        return "choice", ()
    if plain is bool:
        return "switch", ()
    if plain in (int, float) and not any(isinstance(x, DurationRange | ByteSize) for x in metadata):
        return "number", ()
    if get_origin(plain) is tuple:
        item = get_args(plain)[0]
        if not (isinstance(item, type) and issubclass(item, BaseModel)):
            return "lines", ()
        return "rows", tuple(item.model_fields)
    is_model = isinstance(plain, type) and issubclass(plain, BaseModel)
    return ("table" if is_model or get_origin(plain) in _TABLES else "text"), ()


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise InvalidEntry("found a text that is no number") from None


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _row(line: str, columns: tuple[str, ...]) -> dict[str, Any]:
    name, separator, count = line.rpartition("=")
    if not separator or not count.strip().isdecimal():
        raise InvalidEntry("found a line of another form, allowed: name = number, one a line")
    return dict(zip(columns, (name.strip(), int(count)), strict=True))


def _table(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Its message names the place and quotes nothing.
        raise InvalidEntry(f"found text that is no TOML: {error}") from None


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
