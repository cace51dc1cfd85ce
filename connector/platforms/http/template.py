"""Templates with typed placeholders: `{email}`, `{amount}`. Pure.

A placeholder that is the whole of a text becomes the value itself, so that a number stays a number;
within a text it becomes a part of the text. Values are not searched for placeholders, and JSON is
made from the filled values, so that a value cannot change the structure. `{{` and `}}` are braces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_BRACES = {"{{": "{", "}}": "}"}


class TemplateError(ValueError):
    """The text is not a template; the message says why."""


class MissingValue(ValueError):
    """A placeholder has no value. The message is its name."""


def placeholders(template: Any) -> Iterator[str]:
    """The names of all placeholders in a JSON value. Raises TemplateError for a lone brace."""
    if isinstance(template, str):
        for match in _PLACEHOLDER.finditer(template):
            if match[1] is not None:
                yield match[1]
            elif match[0] not in _BRACES:
                raise TemplateError(f"a lone {match[0]}; a brace itself is written twice")
    elif isinstance(template, dict):
        for value in template.values():
            yield from placeholders(value)
    elif isinstance(template, list):
        for value in template:
            yield from placeholders(value)


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """The JSON value with its placeholders filled; keys stay as they are. Raises MissingValue."""
    if isinstance(template, str):
        match = _PLACEHOLDER.fullmatch(template)
        if match and match[1] is not None:
            return _value(match[1], values)
        return _text(template, values, str)
    if isinstance(template, dict):
        return {key: fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, values) for value in template]
    return template


def fill_path(template: str, values: Mapping[str, Any]) -> str:
    """The path with its placeholders filled, each percent-encoded. Raises MissingValue, also for a
    value that would be a step of the path (`.`, `..`)."""

    def encoded(name: str) -> str:
        text = _to_text(_value(name, values))
        if text in ("", ".", ".."):
            raise MissingValue(name)
        return quote(text, safe="")

    return _text(template, {name: name for name in values}, encoded)


def _text(template: str, values: Mapping[str, Any], to_text: Callable[[str], str]) -> str:
    def filled(match: re.Match[str]) -> str:
        name = match[1]
        return _BRACES[match[0]] if name is None else to_text(_to_text(_value(name, values)))

    return _PLACEHOLDER.sub(filled, template)


def _value(name: str, values: Mapping[str, Any]) -> Any:
    value = values.get(name)
    if value is None:
        raise MissingValue(name)
    return value


def _to_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
