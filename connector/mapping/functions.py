"""The named functions of `{ fn = "sign", of = "event.properties.amount" }`.

A function is pure. It gets one argument for each path in `of`, None where a path has no value, and
is not called if no path has one. None as a result means: no value. If it raises, the property is
left out and reported. Other packages add functions through the entry-point group
`connector.functions`; a built-in name cannot be replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import tzinfo
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeAlias

from connector.mapping.types import ConversionError, describe, to_date, to_number, to_plain_item

Function: TypeAlias = Callable[..., Any]
GROUP = "connector.functions"


def sign(value: Any) -> str:
    """ "increase" for a number above 0, "decrease" below 0, "none" at 0."""
    number = to_number(value)
    if number > 0:
        return "increase"
    return "decrease" if number < 0 else "none"


def absolute(value: Any) -> int | float:
    """A number without its sign: 25 for -25."""
    return abs(to_number(value))


def lower(value: Any) -> str:
    """A text in lower case."""
    return _text(value).lower()


def upper(value: Any) -> str:
    """A text in upper case."""
    return _text(value).upper()


def trim(value: Any) -> str:
    """A text without spaces around it."""
    return _text(value).strip()


def join(*values: Any) -> str:
    """Several values, or the items of a list, as one text with ", " between them."""
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return ", ".join(str(to_plain_item(item)) for item in items if item is not None)


def first(*values: Any) -> Any:
    """The first path that has a value; of a list its first item."""
    for value in values:
        found = value[0] if isinstance(value, list) and value else value
        if found is not None and found != []:
            return found
    return None


def number(value: Any) -> int | float:
    """A number, also from its text: 12.5 for "12.5"."""
    return to_number(value)


def link(value: Any) -> str:
    """An address, with https:// before it if it has no scheme."""
    text = _text(value).strip()
    return text if "://" in text else f"https://{text}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ConversionError(f"{describe(value)} is not a text")


def built_in(zone: tzinfo) -> dict[str, Function]:
    """The functions that every mapping has; `date` uses the days of `zone`."""

    def date(value: Any) -> str:
        """The day of a timestamp in the mapping's timezone, as yyyy-MM-dd."""
        return to_date(value, zone)

    return {
        "sign": sign,
        "abs": absolute,
        "lower": lower,
        "upper": upper,
        "trim": trim,
        "join": join,
        "first": first,
        "number": number,
        "date": date,
        "link": link,
    }


@cache
def installed() -> dict[str, EntryPoint]:
    """The functions of other packages by name, not yet loaded."""
    return {point.name: point for point in entry_points(group=GROUP)}
