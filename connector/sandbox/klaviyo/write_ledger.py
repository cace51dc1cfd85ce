"""Who wrote to whom, and whether two writes of one person were under way at the same time.

A person is known by faces: the address, the phone number, the external id, and the id and the
identifiers of the profile that these lead to. Two writes are of one person when they share a face.
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
    """A write that was accepted. `keys` names what it carried besides identifiers: "first_name",
    "properties.Tier", "location.city", and "unset.Tier" and the like for a patch."""

    time: float
    kind: WriteKind
    email: str | None
    keys: tuple[str, ...]


class Ledger:
    """`writes` in the order of their acceptance (empty unless `log`); `overlaps` counts, by kind,
    writes that met another one of the same person waiting in a job."""

    def __init__(self, *, log: bool) -> None:
        self.writes: list[Write] = []
        self.overlaps: Counter[str] = Counter()
        self._log = log
        self._held: dict[str, int] = {}
        self._keys: dict[tuple[str, ...], tuple[str, ...]] = {}

    def note(
        self, kind: WriteKind, given: ProfileIn, found: Profile | None, at: float
    ) -> list[str]:
        """Count and log an accepted write; the faces of its person. An event that carries nothing
        but identifiers is logged, yet does not overlap: it changes no profile."""
        seen = identifiers_of(given, found)
        held = self._held
        if (
            held
            and any(identifier in held for identifier in seen)
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
        """A job now holds these faces."""
        held = self._held
        for identifier in seen:
            held[identifier] = held.get(identifier, 0) + 1

    def release(self, seen: Iterable[str]) -> None:
        """A job that held these faces has ended."""
        held = self._held
        for identifier in seen:
            left = held[identifier] - 1
            if left:
                held[identifier] = left
            else:
                del held[identifier]


def identifiers_of(given: ProfileIn, found: Profile | None) -> list[str]:
    """By what a person is known; `found` is the profile that `given` leads to."""
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
