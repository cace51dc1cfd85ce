"""Validates profiles inside bodies, revision 2026-10-15.

Source: the published spec and the table of ingestion limits in the docs. Where they differ, or a
unit is unclear (KB, MB), the stricter reading is used.
Guesses: unknown attributes are rejected; the nesting limit counts `properties` itself as level 1;
the syntax of a valid e-mail address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 5_000_000
MAX_STRING_BYTES = 100_000
MAX_PROPERTIES = 300
MAX_ITEMS = 4_000
MAX_DEPTH = 10

_EMAIL = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+(?:[A-Za-z]{2,63}|xn--[A-Za-z0-9-]{1,59})"
)
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")

IDENTIFIERS = ("email", "phone_number", "external_id", "_kx")
EVENT_IDENTIFIERS = ("email", "phone_number", "external_id", "anonymous_id", "_kx")
STANDARD = ("first_name", "last_name", "organization", "locale", "title", "image")
PROFILE_KEYS = frozenset((*EVENT_IDENTIFIERS, *STANDARD, "location", "properties"))


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule. `name`: its counter in the sandbox. `pointer`, `detail`: for the response."""

    name: str
    pointer: str
    detail: str


@dataclass(slots=True)
class ProfileIn:
    """A profile in a body. `attributes` may contain nulls: null clears a value."""

    id: str | None
    attributes: dict[str, Any]
    meta: dict[str, Any]
    pointer: str


class Reader:
    """Collects violations while it reads one body."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def add(self, name: str, pointer: str, detail: str) -> None:
        """Add a broken rule."""
        self.violations.append(Violation(name, pointer, detail))

    def shape(self, pointer: str, detail: str) -> None:
        """Add something that is missing or has the wrong type."""
        self.add("shape", pointer, detail)

    def resource(self, holder: Any, pointer: str, kind: str) -> dict[str, Any]:
        """`data` if it has this type, else {}."""
        data = holder.get("data") if isinstance(holder, dict) else None
        if not isinstance(data, dict):
            self.shape(f"{pointer}/data", "'data' is a required field.")
            return {}
        if data.get("type") != kind:
            self.shape(f"{pointer}/data/type", f"The type must be '{kind}'.")
            return {}
        return data

    def person(
        self,
        data: dict[str, Any],
        place: str,
        known: frozenset[str],
        identifiers: tuple[str, ...],
        *,
        required: bool = True,
    ) -> ProfileIn | None:
        """A profile resource at `place`. `required`: it must have at least one identifier."""
        before = len(self.violations)
        attributes = data.get("attributes")
        if not isinstance(attributes, dict):
            self.shape(f"{place}/attributes", "'attributes' is a required field.")
            return None
        if "meta" in attributes:
            self.add(
                "profile_meta_misplaced",
                f"{place}/attributes/meta",
                "'meta' is not a valid field for the resource 'profile'.",
            )
        if not attributes.keys() <= known:
            self.only(attributes, known | {"meta"}, place)
        self._identifiers(data, attributes, place, identifiers, required)
        for name, given in attributes.items():
            if given is None:
                continue
            if name in ("properties", "location"):
                if not isinstance(given, dict):
                    self.shape(f"{place}/attributes/{name}", "An object is required.")
                else:
                    self.values(given, f"{place}/attributes/{name}", 1)
            elif name in STANDARD and not isinstance(given, str):
                self.shape(f"{place}/attributes/{name}", "A string is required.")
        meta = data.get("meta")
        if meta is not None:
            self._meta(meta, f"{place}/meta")
        if len(self.violations) > before:
            return None
        return ProfileIn(data.get("id"), attributes, meta or {}, place)

    def _meta(self, meta: Any, pointer: str) -> None:
        """`patch_properties` {append, unappend, unset} and `patch_identifiers` {…: {"email"}}."""
        if not isinstance(meta, dict):
            self.shape(pointer, "An object is required.")
            return
        for name, known in (
            ("patch_properties", ("append", "unappend", "unset")),
            ("patch_identifiers", ("append", "unappend")),
        ):
            patch = meta.get(name)
            if patch is None:
                continue
            if not isinstance(patch, dict):
                self.shape(f"{pointer}/{name}", "An object is required.")
                continue
            for verb, value in patch.items():
                if verb not in known:
                    self.shape(f"{pointer}/{name}/{verb}", f"'{verb}' is not a valid patch.")
                elif value is not None and not (
                    _patchable(verb, value) if name == "patch_properties" else _is_addresses(value)
                ):
                    self.shape(f"{pointer}/{name}/{verb}", "The patch has the wrong type.")

    def _identifiers(
        self,
        data: dict[str, Any],
        attributes: dict[str, Any],
        place: str,
        identifiers: tuple[str, ...],
        required: bool,
    ) -> None:
        named = False
        for name in identifiers:
            given = attributes.get(name)
            if given is None:
                continue
            named = True
            if name == "email":
                if not _is_email(given):
                    self.add("email_invalid", f"{place}/attributes/email", "Invalid email address")
            elif name == "phone_number":
                if not isinstance(given, str) or not _PHONE.fullmatch(given):
                    self.add(
                        "phone_invalid",
                        f"{place}/attributes/phone_number",
                        "Invalid phone number format (Example of a valid format: +12345678901)",
                    )
            elif not isinstance(given, str) or not given:
                self.shape(f"{place}/attributes/{name}", "A non-empty string is required.")
        given = data.get("id")
        if given is not None and (not isinstance(given, str) or not given):
            self.shape(f"{place}/id", "A non-empty string is required.")
        if required and not named and given is None:
            self.add(
                "identifier_missing",
                f"{place}/attributes",
                "One of the following identifiers must be included: id, " + ", ".join(identifiers),
            )

    def only(self, attributes: dict[str, Any], known: frozenset[str], place: str) -> None:
        """Reject unknown attributes."""
        for name in attributes.keys() - known:
            self.add(
                "unknown_field",
                f"{place}/attributes/{name}",
                f"'{name}' is not a valid field for this resource.",
            )

    def values(self, holder: dict[str, Any] | list[Any], pointer: str, depth: int) -> None:
        """Check the limits of strings, arrays and nesting. `depth`: the level of `holder`."""
        if depth > MAX_DEPTH:
            self.add("nested_too_deep", pointer, f"At most {MAX_DEPTH} levels are allowed.")
            return
        if isinstance(holder, list) and len(holder) > MAX_ITEMS:
            self.add("array_too_long", pointer, f"At most {MAX_ITEMS} items are allowed.")
            return
        for name, value in _items(holder):
            if isinstance(value, str):
                # A character has at most 4 bytes: only long strings need to be encoded.
                if len(value) * 4 > MAX_STRING_BYTES < len(value.encode()):
                    self.add("string_too_long", f"{pointer}/{name}", "At most 100KB are allowed.")
            elif isinstance(value, dict | list):
                self.values(value, f"{pointer}/{name}", depth + 1)


def dig(holder: Any, *names: str) -> Any:
    """The value at a path of keys, or None."""
    for name in names:
        if not isinstance(holder, dict):
            return None
        holder = holder.get(name)
    return holder


def _items(holder: dict[str, Any] | list[Any]) -> Iterator[tuple[object, Any]]:
    yield from holder.items() if isinstance(holder, dict) else enumerate(holder)


def _is_email(given: Any) -> bool:
    return (
        isinstance(given, str)
        and len(given) <= 254
        and _EMAIL.fullmatch(given) is not None
        and given.index("@") <= 64
    )


def _is_addresses(value: Any) -> bool:
    """{"email": address or addresses}: no other identifier has secondary values."""
    if not isinstance(value, dict) or not value.keys() <= {"email"}:
        return False
    emails = value.get("email", [])
    return all(_is_email(email) for email in (emails if isinstance(emails, list) else [emails]))


def _patchable(verb: str, value: Any) -> bool:
    if verb == "unset":
        return isinstance(value, str) or (
            isinstance(value, list) and all(isinstance(name, str) for name in value)
        )
    return isinstance(value, dict)
