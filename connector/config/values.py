"""Value types of the configuration: how they are written, parsed and described.

A duration ("20s", "5m", "3d", "24h", "250ms", "0s") becomes seconds, "never" becomes None. A size
("512MB", "1GiB") becomes bytes; KB, MB, GB, TB count by 1000 and KiB, MiB, GiB, TiB by 1024.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
)
from pydantic.annotated_handlers import GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

# A value in a file needs a unit; code that builds a model may pass plain seconds or bytes.
FROM_FILE: Mapping[str, bool] = {"from_file": True}

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SIZES = {
    "B": 1,
    **{unit + "B": 1000**power for power, unit in enumerate("KMGT", 1)},
    **{unit + "iB": 1024**power for power, unit in enumerate("KMGT", 1)},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]i?B|B)", re.ASCII)


class Section(BaseModel):
    """A table of the file. Frozen; an unknown key is a fault."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True
    )


def setting(default: Any, meaning: str, *, env: str = "", needed: bool = False, **rest: Any) -> Any:
    """A key: its default as written in a file, and its meaning in one line.

    `env`: the environment variable that fills the key if no file sets it. `needed`: empty is a
    fault while the connection is enabled.
    """
    options: Any = {"env": env, "needed": needed}
    return Field(default=default, description=meaning, json_schema_extra=options, **rest)


def field_option(field: FieldInfo, name: str) -> Any:
    """The option `name` that `setting` stored for a field, or None."""
    extra = field.json_schema_extra
    return extra.get(name) if isinstance(extra, dict) else None


def seconds(text: str) -> float:
    """Parse a duration such as "20s" into seconds. Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("not a duration")
    return float(match[1]) * _UNITS[match[2]]


def written_duration(value: float) -> str:
    """Format seconds with the largest unit that needs no fraction."""
    if value == 0:
        return "0s"
    for unit, size, minimum in (("d", 86400, 2), ("h", 3600, 1), ("m", 60, 1), ("s", 1, 1)):
        if value % size == 0 and value >= size * minimum:
            return f"{int(value // size)}{unit}"
    milliseconds = round(value * 1000, 6)
    return f"{milliseconds:g}ms" if value < 1 else f"{value:.10g}s"


def written_size(value: int) -> str:
    """Format bytes with the largest unit that needs no fraction."""
    for unit, size in sorted(_SIZES.items(), key=lambda item: -item[1]):
        if value and value % size == 0:
            return f"{value // size}{unit}"
    return f"{value}B"


def _plain_number(value: object, info: ValidationInfo) -> float | None:
    """The number that code passed in; None for anything else and in a file."""
    from_file = bool((info.context or {}).get("from_file"))
    if from_file or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value


@dataclass(frozen=True, slots=True)
class DurationRange:
    """Marks a float of seconds that is written as a duration from `minimum` to `maximum`. `none`
    is a word that may be written instead and becomes None."""

    minimum: str = "0s"
    maximum: str = ""
    none: str = ""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self.read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: self.none if value is None else written_duration(value),
                when_used="json",
            ),
        )

    def read(self, value: object, info: ValidationInfo) -> float | None:
        if self.none and (value is None or value == self.none):
            return None
        found = seconds(value) if isinstance(value, str) else _plain_number(value, info)
        if found is None:
            raise ValueError("not a duration")
        if found < seconds(self.minimum) or (self.maximum and found > seconds(self.maximum)):
            raise ValueError("out of range")
        return float(found)

    def allowed_text(self) -> str:
        text = 'a duration such as "20s", "5m", "24h" or "3d"'
        if self.maximum:
            text += f", from {self.minimum} to {self.maximum}"
        elif self.minimum != "0s":
            text += ", more than 0s" if self.minimum == "1ms" else f", at least {self.minimum}"
        return text + (f', or "{self.none}"' if self.none else "")


@dataclass(frozen=True, slots=True)
class ByteSize:
    """Marks an int of bytes that is written as a size."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self.read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                written_size, when_used="json"
            ),
        )

    def read(self, value: object, info: ValidationInfo) -> int:
        number = _plain_number(value, info)
        if number is not None:
            return int(number)
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError("not a size")
        return int(float(match[1]) * _SIZES[match[2]])

    def allowed_text(self) -> str:
        return 'a size such as "512MB" or "1GiB"'


@dataclass(frozen=True, slots=True)
class Allowed:
    """Describes the allowed values where the type alone does not."""

    text: str

    def allowed_text(self) -> str:
        return self.text


def _as_list(value: object) -> object:
    items = [value] if isinstance(value, str | SecretStr) else value
    if not isinstance(items, list | tuple):
        return items
    # An empty secret would authenticate a caller that presents none.
    return [item for item in items if item != "" and item != SecretStr("")]


def _as_network(value: str) -> str:
    return str(ip_network(value))


Duration: TypeAlias = Annotated[float, DurationRange()]
PositiveDuration: TypeAlias = Annotated[float, DurationRange(minimum="1ms")]
Interval: TypeAlias = Annotated[float, DurationRange(minimum="1s", maximum="24h")]
DurationOrNever: TypeAlias = Annotated[float | None, DurationRange(none="never")]
DurationOrOff: TypeAlias = Annotated[float | None, DurationRange(minimum="1s", none="off")]
Size: TypeAlias = Annotated[int, ByteSize()]
Network: TypeAlias = Annotated[
    str, AfterValidator(_as_network), Allowed('an address or a network such as "10.0.0.0/8"')
]
Url: TypeAlias = Annotated[
    str,
    Field(pattern=r"^https?://[^\s/]+"),
    Allowed("a URL that starts with https:// or http://"),
]
Secrets: TypeAlias = Annotated[
    tuple[SecretStr, ...],
    BeforeValidator(_as_list),
    Allowed("a secret, or a list of secrets: all are valid, the first is used"),
]


def unwrap(annotation: Any, metadata: tuple[Any, ...] = ()) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without `Annotated` and `| None`, and its metadata."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        for item in more:
            metadata += tuple(item.metadata) if isinstance(item, FieldInfo) else (item,)
        return unwrap(inner, metadata)
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [arg for arg in get_args(annotation) if arg is not type(None)]
        if len(inner) == 1:
            return unwrap(inner[0], metadata)
    return annotation, metadata


def is_secret(annotation: Any) -> bool:
    """Whether a value of this type may contain a secret."""
    plain, _ = unwrap(annotation)
    return plain is SecretStr or any(is_secret(arg) for arg in get_args(plain) if arg is not ...)


def has_allowed_text(metadata: tuple[Any, ...]) -> bool:
    """Whether the metadata describes the allowed values."""
    return any(isinstance(item, DurationRange | ByteSize | Allowed) for item in metadata)


def _bounds(metadata: tuple[Any, ...]) -> str:
    found = {
        name: getattr(item, name)
        for item in metadata
        for name in ("ge", "gt", "le")
        if getattr(item, name, None) is not None
    }
    if "ge" in found and "le" in found:
        return f" from {found['ge']} to {found['le']}"
    if "ge" in found:
        return f", at least {found['ge']}"
    return f", more than {found['gt']}" if "gt" in found else ""


def allowed_text(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """The allowed values of a type in words, for faults and for the reference."""
    plain, metadata = unwrap(annotation, metadata)
    for item in reversed(metadata):
        if isinstance(item, DurationRange | ByteSize | Allowed):
            return item.allowed_text()
    if get_origin(plain) is Literal:
        return " | ".join(f'"{value}"' for value in get_args(plain))
    if get_origin(plain) is tuple:
        item = get_args(plain)[0]
        if isinstance(item, type) and issubclass(item, BaseModel):
            return "an array of tables"
        return f"a list, each {allowed_text(item)}"
    if isinstance(plain, type) and issubclass(plain, BaseModel):
        return "a table"
    simple = {bool: "true or false", str: "text", Path: "a path", SecretStr: "a secret"}
    if plain in simple:
        filled = any(getattr(item, "min_length", 0) for item in metadata)
        return simple[plain] + (" that is not empty" if filled else "")
    if plain in (int, float):
        return ("a whole number" if plain is int else "a number") + _bounds(metadata)
    table = plain is Any or get_origin(plain) in (dict, Mapping)
    return "a table" if table else "a value of another type"
