"""Collects the faults of a configuration and formats them: `key: found …, allowed …`.

A fault never contains the value of a secret: the value of a secret key is described by its type
only, and so is a value that a secret's variable or file put into another key.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterable
from typing import Any, TypeAlias, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from connector.config.values import allowed_text, has_allowed_text, is_secret, unwrap

Loc: TypeAlias = tuple[str | int, ...]

NAME = re.compile(r"[a-z0-9-]+", re.ASCII)
_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")
_PASSWORD = re.compile(r"(://[^\s:/@]*):.*@|(password=)[^&\s]*", re.DOTALL)


def without_password(text: str) -> str:
    """Mask the password in a URL, if there is one, as `***`."""
    return _PASSWORD.sub(lambda m: f"{m[2]}***" if m[2] else f"{m[1]}:***@", text)


def set_variable(name: str) -> str:
    """How to fill a value that the file takes from this variable."""
    return f"set {name} in the environment or in .env"


class Faults:
    """Faults by key, in the order found. Only the first fault of a key is kept."""

    def __init__(self) -> None:
        self._found: dict[Loc, str] = {}
        self.sensitive: Collection[str] = ()
        self.written: Any = {}
        """The tree before expansion."""

    def __bool__(self) -> bool:
        return bool(self._found)

    def written_at(self, loc: Loc) -> Any:
        """What the file says for a key, None where nothing."""
        found = self.written
        for part in loc:
            try:
                found = found[part]
            except (KeyError, IndexError, TypeError):
                return None
        return found

    def variable_at(self, loc: Loc) -> str | None:
        """The first variable that the file names for a key, if any."""
        written = self.written_at(loc)
        match = _VARIABLE.search(written.replace("$$", "")) if isinstance(written, str) else None
        return match[1] if match else None

    def add(self, loc: Loc, message: str) -> None:
        if not any(loc[: len(known)] == known for known in self._found):
            self._found[loc] = message

    def lines(self, tree: dict[str, Any]) -> list[str]:
        """One line per fault; connections are identified by name."""
        return [f"{dotted(loc, tree)}: {text}" for loc, text in self._found.items()]

    def add_errors(self, error: ValidationError, model: type[BaseModel], prefix: Loc = ()) -> None:
        """Add what pydantic found in a table of `model` at `prefix`."""
        for item in error.errors(include_url=False):
            loc: Loc = (*prefix, *item["loc"])
            name = self.variable_at(loc) if item["input"] == "" else None
            text = self._message(item, model)
            self.add(loc, f"{text}: {set_variable(name)}" if name else text)

    def _message(self, item: Any, model: type[BaseModel]) -> str:
        loc: Loc = item["loc"]
        if item["type"] == "extra_forbidden":
            return unknown_key(str(loc[-1]), keys_at(model, loc[:-1]))
        annotation, metadata = type_at(model, loc)
        hidden = annotation is None or is_secret(annotation)
        allowed = "another value" if annotation is None else allowed_text(annotation, metadata)
        if item["type"] == "missing":
            return f"found nothing, allowed {allowed}"
        if item["type"] == "value_error" and not hidden and not has_allowed_text(metadata):
            allowed = str(item["ctx"]["error"])
        return f"found {self.quote(item['input'], hidden=hidden)}, allowed {allowed}"

    def quote(self, value: object, *, hidden: bool = False) -> str:
        """A value as a fault may show it: without secrets and shortened."""
        kinds: tuple[tuple[type, str], ...] = ((dict, "a table"), (list, "a list"))
        for kind, name in kinds:
            if isinstance(value, kind):
                return name
        if not isinstance(value, str):
            return "a value of another type" if hidden else json.dumps(value, default=str)
        if hidden or value.startswith("pk_") or any(text in value for text in self.sensitive):
            return "text that is not shown" if value else '""'
        value = without_password(value)
        return json.dumps(value if len(value) <= 80 else value[:79] + "…", ensure_ascii=False)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The message for an unknown key, with the nearest known one."""
    names = list(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if close:
        return f'found an unknown key; did you mean "{close[0]}"?'
    return "found an unknown key, allowed " + (", ".join(names) or "none")


def keys_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """The keys of the table at `loc` below a table of `model`."""
    annotation, _ = type_at(model, loc) if loc else (model, ())
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(annotation.model_fields)
    return []


def type_at(model: type[BaseModel], loc: Loc) -> tuple[Any, tuple[Any, ...]]:
    """Type and metadata of the value at `loc`; the type is None for an unknown key."""
    annotation: Any = model
    metadata: tuple[Any, ...] = ()
    for part in loc:
        field: FieldInfo | None = None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
        if field is not None:
            annotation, metadata = unwrap(field.annotation, tuple(field.metadata))
        elif get_origin(annotation) is tuple and isinstance(part, int):
            annotation, metadata = unwrap(get_args(annotation)[0])
        else:
            return None, ()
    return annotation, metadata


def dotted(loc: Loc, tree: dict[str, Any]) -> str:
    """The dotted key; a connection is identified by its name if that is unique."""
    names = [part if _BARE.fullmatch(str(part)) else json.dumps(part) for part in loc]
    if len(loc) > 1 and loc[0] == "connections" and isinstance(loc[1], int):
        names[1] = connection_label(tree.get("connections"), loc[1])
    return ".".join(str(word) for word in names)


def connection_label(connections: object, index: int) -> str:
    """The name of a connection, or its index if the name is missing or not unique."""
    names = [
        item.get("name") if isinstance(item, dict) else None
        for item in (connections if isinstance(connections, list) else [])
    ]
    name = names[index] if index < len(names) else None
    if isinstance(name, str) and NAME.fullmatch(name) and names.count(name) == 1:
        return name
    return str(index)
