"""Logs accepted writes, and detects two concurrent writes of the same person.

A person's identifiers here are the address, the phone number, the external id, and the id and the
identifiers of the profile that these resolve to. Two writes are of the same person if they share an
identifier.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple

from connector.sandbox.klaviyo.rules import EVENT_IDENTIFIERS, ProfileIn
from connector.sandbox.klaviyo.state import Profile

WriteKind = Literal["event", "single", "bulk"]
_NAMES = frozenset(EVENT_IDENTIFIERS)


class Write(NamedTuple):
    """An accepted write. `keys`: what it contains besides identifiers, such as "first_name",
    "properties.Tier", "location.city", and "unset.Tier" for a patch."""

    time: float
    kind: WriteKind
    email: str | None
    keys: tuple[str, ...]


class Ledger:
    """`writes`: in the order of acceptance (empty unless `log`). `overlaps`: by kind, the number of
    writes that were accepted while another one of the same person waited in a job."""

    def __init__(self, *, log: bool) -> None:
        self.writes: list[Write] = []
        self.overlaps: Counter[str] = Counter()
        self._log = log
        self._waiting: dict[str, int] = {}
        self._keys: dict[tuple[str, ...], tuple[str, ...]] = {}

    def note(
        self, kind: WriteKind, given: ProfileIn, found: Profile | None, at: float
    ) -> list[str]:
        """Log an accepted write; returns the identifiers of its person. An event with identifiers
        only is no overlap: it changes no profile."""
        seen = identifiers_of(given, found)
        waiting = self._waiting
        if (
            waiting
            and any(identifier in waiting for identifier in seen)
            and (kind != "event" or given.meta or not given.attributes.keys() <= _NAMES)
        ):
            self.overlaps[kind] += 1
        if self._log:
            email = given.attributes.get("email") or (found and found.identifiers.get("email"))
            keys = _written_keys(given)
            keys = self._keys.setdefault(keys, keys)
            self.writes.append(Write(at, kind, sys.intern(email.lower()) if email else None, keys))
        return seen

    def hold(self, seen: Iterable[str]) -> None:
        """Note that an open job contains these identifiers."""
        waiting = self._waiting
        for identifier in seen:
            waiting[identifier] = waiting.get(identifier, 0) + 1

    def release(self, seen: Iterable[str]) -> None:
        """Note that a job with these identifiers has ended."""
        waiting = self._waiting
        for identifier in seen:
            left = waiting[identifier] - 1
            if left:
                waiting[identifier] = left
            else:
                del waiting[identifier]


def identifiers_of(given: ProfileIn, found: Profile | None) -> list[str]:
    """The identifiers of a person. `found`: the profile that `given` resolves to."""
    seen = _normalized_identifiers(given.attributes)
    if found is not None:
        seen += _normalized_identifiers(found.identifiers)
        seen.append(found.id)
    elif given.id is not None:
        seen.append(given.id)
    return seen


def _normalized_identifiers(identifiers: dict[str, str]) -> list[str]:
    seen = []
    email = identifiers.get("email")
    if email:
        seen.append(email.lower())
    phone = identifiers.get("phone_number")
    if phone:
        seen.append(phone)
    external = identifiers.get("external_id")
    if external:
        seen.append(f"external {external}")
    return seen


def _written_keys(given: ProfileIn) -> tuple[str, ...]:
    keys = []
    for name, value in given.attributes.items():
        if isinstance(value, dict):
            keys += [f"{name}.{key}" for key in value]
        elif name not in _NAMES:
            keys.append(name)
    for verb, value in (given.meta.get("patch_properties") or {}).items():
        keys += [f"{verb}.{key}" for key in ([value] if isinstance(value, str) else value or ())]
    return tuple(keys)
