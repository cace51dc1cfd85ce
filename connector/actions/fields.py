"""Reads JSON that Klaviyo fills from a template, strictly.

A profile value that contains a quote can break the JSON or add keys, so every field is read by
name, once, and whatever else is in the body is rejected. Every rejection is Malformed and names
the item, the field and what is allowed, never the value: it may be personal data.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from connector.domain.errors import Malformed, Problem
from connector.mapping.address import valid_email

COMMON_FIELDS = ("idempotency_key", "once_per")
"""Fields that every item may have."""

_INTEGER = re.compile(r"([+-]?)(\d{1,12})(?:\.0{1,6})?", re.ASCII)


def decode(body: bytes) -> Any:
    """The JSON value of a body. Raises Malformed."""

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            # A value with a quote can add a key that would override the template's own.
            reject(
                "body: found a key twice in one object, allowed once (does a value contain a "
                "quote?)"
            )
        return found

    def reject_constant(word: str) -> NoReturn:
        reject(f"body: found {word}, allowed a finite number")

    try:
        return json.loads(
            body.decode(), object_pairs_hook=unique_keys, parse_constant=reject_constant
        )
    except UnicodeDecodeError:
        reject("body: found bytes that are not UTF-8, allowed UTF-8")
    except RecursionError:
        reject("body: nested too deeply, allowed an object or an array of objects")
    except json.JSONDecodeError as error:
        reject(
            f"body: not JSON ({error}), allowed JSON (does a value contain a quote or a line "
            "break?)"
        )
    except ValueError:
        reject("body: found a number with too many digits, allowed up to 12")


class Fields:
    """The fields of one item. `location` precedes the field's name in every rejection."""

    def __init__(self, item: Any, location: str) -> None:
        self.location = location
        if not isinstance(item, dict):
            reject(f"{location}found {_type_name(item)}, allowed an object")
        self._item: dict[str, Any] = item

    def allow_only(self, *allowed: str) -> None:
        """Reject every field that is neither one of these nor common to all routes."""
        for name in self._item:
            if name not in allowed and name not in COMMON_FIELDS:
                known = ", ".join((*allowed, *COMMON_FIELDS))
                shown = name if name.isascii() and name.isidentifier() else "a key"
                self.reject(shown[:40], f"unknown field, allowed {known}")

    def has_value(self, name: str) -> bool:
        return self._item.get(name) is not None

    def text(self, name: str, maximum: int, *, required: bool = True) -> str:
        value = self._item.get(name)
        if value is None and not required:
            return ""
        if not isinstance(value, str):
            self.reject(name, f"found {_type_name(value)}, allowed a string")
        value = value.strip()
        if not value and not required:
            return ""
        if not 0 < len(value) <= maximum:
            self.reject(name, f"found {len(value)} characters, allowed 1 to {maximum}")
        if "\0" in value or not _is_encodable(value):
            self.reject(name, "found U+0000 or half a surrogate pair, allowed valid Unicode")
        return value

    def email(self, name: str) -> str:
        value = self.text(name, 254).lower()
        if not valid_email(value):
            self.reject(name, "found no valid e-mail address, allowed name@example.com")
        return value

    def flag(self, name: str) -> bool | None:
        """True or false, also as a string (templates write "True"); None without the field."""
        value = self._item.get(name)
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
        if value is not None and not isinstance(value, bool):
            self.reject(name, f"found {_type_name(value)}, allowed true or false")
        return value

    def integer(self, name: str, maximum: int, *, signed: bool) -> int:
        """A whole number other than 0. 100, 100.0 and "100" are the same."""
        value = self._item.get(name)
        text = str(value).strip() if not isinstance(value, bool) else ""
        match = _INTEGER.fullmatch(text) if isinstance(value, str | int | float) else None
        number = int(match[1] + match[2]) if match else 0
        kind = "a whole number" if signed else "a positive whole number"
        if not match or number == 0 or (number < 0 and not signed):
            self.reject(name, f"found {_type_name(value)}, allowed {kind}")
        if abs(number) > maximum:
            self.reject(
                name, f"above the limit, allowed up to {maximum} ([connections.actions] max_amount)"
            )
        return number

    def reject(self, name: str, what: str) -> NoReturn:
        reject(f"{self.location}{name}: {what}")


def _type_name(value: Any) -> str:
    """The JSON type of a value, not the value: it may be personal data."""
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    if value is None:
        return "nothing"
    return kinds.get(type(value), "a number")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def reject(detail: str) -> NoReturn:
    raise Malformed(Problem.FLOW_MALFORMED, detail)
