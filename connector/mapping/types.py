"""The types that a profile field may have, each a function from a found value to Klaviyo's.

Klaviyo decides a property's type by the JSON it receives: a quoted number is text. So numbers are
sent as numbers and dates in a form that Klaviyo recognises (its help page 115005237648).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, tzinfo
from typing import Any, TypeAlias

Converter: TypeAlias = Callable[[Any], Any]


class ConversionError(ValueError):
    """A value cannot be converted. The message never quotes it: it may be personal."""


_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_URL = re.compile(r"https?://[^\s/?#\"<>]+[^\s\"<>]*", re.IGNORECASE)
_TRUE = frozenset(("true", "yes", "1"))
_FALSE = frozenset(("false", "no", "0"))
_LARGEST = 2**63


def to_number(value: Any) -> int | float:
    """The number of a JSON number or of its text; never a boolean, NaN or infinity.

    Raises ConversionError for everything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if -_LARGEST <= value < _LARGEST:
            return value
    elif isinstance(value, float):
        if math.isfinite(value):
            return value
    elif isinstance(value, str):
        text = value.strip()
        if _WHOLE.fullmatch(text):
            return int(text)
        if _NUMBER.fullmatch(text):
            number = float(text)
            if math.isfinite(number):
                return number
    raise ConversionError(f"{describe(value)} is not a number")


def to_integer(value: Any) -> int:
    """A whole number (12, 12.0, "12"). Raises ConversionError for 12.5 and for everything else."""
    number = to_number(value)
    if isinstance(number, int):
        return number
    if number.is_integer() and abs(number) < _LARGEST:
        return int(number)
    raise ConversionError("the number is not whole")


def to_string(value: Any) -> str:
    """A trimmed text, or the text of a number."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(to_number(value))
    raise ConversionError(f"{describe(value)} is not a text")


def to_boolean(value: Any) -> bool:
    """true or false; also "true", "yes", "1", 1 and their opposites."""
    if isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
    raise ConversionError(f"{describe(value)} is neither true nor false")


def to_url(value: Any) -> str:
    """An http or https address."""
    if isinstance(value, str):
        text = value.strip()
        if _URL.fullmatch(text):
            return text
    raise ConversionError(f"{describe(value)} is not an http or https address")


def to_date(value: Any, zone: tzinfo = UTC) -> str:
    """`yyyy-MM-dd`. A pure date stays as it is; of a timestamp (ISO 8601, without offset: UTC)
    it is the day in `zone`. Raises ConversionError for everything else."""
    if isinstance(value, str):
        text = value.strip()
        try:
            if _DATE.fullmatch(text):
                return date.fromisoformat(text).isoformat()
            return _instant(text).astimezone(zone).date().isoformat()
        except (ValueError, OverflowError):
            pass
    raise ConversionError(f"{describe(value)} is not an ISO 8601 date")


def to_datetime(value: Any) -> str:
    """An instant in UTC, to the second. A pure date becomes noon, because Klaviyo reads a date as
    midnight UTC, which is the day before in half of the time zones."""
    if isinstance(value, str):
        text = value.strip()
        try:
            if _DATE.fullmatch(text):
                instant = datetime.combine(date.fromisoformat(text), time(12), UTC)
            else:
                instant = _instant(text)
            return instant.astimezone(UTC).isoformat(timespec="seconds")
        except (ValueError, OverflowError):
            pass
    raise ConversionError(f"{describe(value)} is not an ISO 8601 date and time")


def to_plain(value: Any) -> Any:
    """The unchanged value of an untyped field: a text, number or boolean, or a list of these."""
    if isinstance(value, list):
        return [to_plain_item(item) for item in value]
    return to_plain_item(value)


def to_plain_item(value: Any) -> Any:
    """A text, number or boolean as it is. Raises ConversionError for everything else."""
    if isinstance(value, bool | str):
        return value
    return to_number(value)


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant


def describe(value: Any) -> str:
    """The kind of a JSON value in words, without its content."""
    if value is None:
        return "null"
    for kind, word in (
        (bool, "a boolean"),
        (int | float, "a number"),
        (str, "a text"),
        (list, "a list"),
        (dict, "an object"),
    ):
        if isinstance(value, kind):
            return word
    return "a value"


TYPES = ("number", "integer", "string", "boolean", "date", "datetime", "url")


def converter(name: str | None, zone: tzinfo) -> Converter:
    """The function of a type; None is `to_plain`. Each raises ConversionError and nothing else."""
    if name is None:
        return to_plain
    if name == "date":
        return lambda value: to_date(value, zone)
    return {
        "number": to_number,
        "integer": to_integer,
        "string": to_string,
        "boolean": to_boolean,
        "datetime": to_datetime,
        "url": to_url,
    }[name]
