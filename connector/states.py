"""What a profile should be and what Klaviyo has confirmed, field by field. Pure.

`Wanted` holds for each field its value (None: unset) and when the read that showed it was sent;
`Confirmed` a digest of what Klaviyo took and when. Klaviyo's own attributes (first_name,
location.city) bear a leading `@`; every other name is a custom property.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from typing import Any

import orjson

from connector.mapping import ProfileMessage
from connector.model import EmailChange, Millis, Observation, OnLeave, ProfileWrite

Wanted = dict[str, tuple[Any, Millis]]
Confirmed = dict[str, tuple[str, Millis]]

UNSET = "unset"
LOST = "?"
"""A digest that equals none: Klaviyo may hold anything, so the field is sent again."""


def digest(value: Any) -> str:
    """Equal for values that Klaviyo would store alike: order of keys does not count."""
    if value is None:
        return UNSET
    encoded = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return blake2b(encoded, digest_size=8).hexdigest()


def merge(wanted: Wanted, changes: Mapping[str, Any], at: Millis) -> Wanted:
    """Field by field, and an older observation never replaces a newer one (promise 5)."""
    merged = dict(wanted)
    for name, value in changes.items():
        known = merged.get(name)
        if known is None or known[1] <= at:
            merged[name] = (value, at)
    return merged


def left_behind(before: Wanted, after: Wanted, confirmed: Confirmed) -> Iterator[str]:
    """The fields whose former value may be at Klaviyo although nothing says so: an event carried
    it, or a write that is still in flight. What comes after it must be told, whatever it is."""
    for name, (value, _) in before.items():
        if value is not None and after[name][0] != value:
            took = confirmed.get(name)
            if took is None or took[0] != digest(value):
                yield name


def pending(
    wanted: Wanted, confirmed: Confirmed, *, now: Millis, reconfirm_after: int
) -> dict[str, Any]:
    """The fields that a write must bring: value, or None to unset.

    A field that we never set is not unset either: it is somebody else's. One that Klaviyo took
    `reconfirm_after` ms ago or longer is told again.
    """
    changes: dict[str, Any] = {}
    for name, (value, _) in wanted.items():
        took = confirmed.get(name)
        if took is None:
            if value is not None:
                changes[name] = value
        elif took[0] != digest(value) or (value is not None and now - took[1] >= reconfirm_after):
            changes[name] = value
    return changes


def confirm(confirmed: Confirmed, sent: Mapping[str, str], at: Millis) -> Confirmed:
    """Klaviyo took these digests."""
    return {**confirmed, **{name: (value, at) for name, value in sent.items()}}


def lose(confirmed: Confirmed, names: Iterable[str], at: Millis) -> Confirmed:
    """Nobody knows what Klaviyo has for these names: they are sent again."""
    return {**confirmed, **dict.fromkeys(names, (LOST, at))}


def split(changes: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(what is set, which are unset). An attribute of Klaviyo's own is never unset by name: it
    is set to null, which clears it."""
    sets = {name: value for name, value in changes.items() if value is not None or name[0] == "@"}
    unsets = tuple(name for name, value in changes.items() if value is None and name[0] != "@")
    return sets, unsets


def attributes_of(sets: Mapping[str, Any]) -> dict[str, Any]:
    """Klaviyo's `profile.data.attributes` without identifiers."""
    body: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for name, value in sets.items():
        if name[0] != "@":
            properties[name] = value
            continue
        outer, _, inner = name[1:].partition(".")
        if inner:
            body.setdefault(outer, {})[inner] = value
        else:
            body[outer] = value
    if properties:
        body["properties"] = properties
    return body


# ── one person's row ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Farewell:
    """A former address whose profile is to lose our fields."""

    identity: Mapping[str, str]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """A person as a state. `claimed` while a write is in flight; then only `wanted` may change."""

    person: int
    identity: Mapping[str, str] = field(default_factory=dict)
    wanted: Wanted = field(default_factory=dict)
    confirmed: Confirmed = field(default_factory=dict)
    profile_id: str | None = None
    farewells: tuple[Farewell, ...] = ()
    move_from: Mapping[str, str] | None = None
    mapping: str | None = None


def observe(profile: Profile, seen: Observation, *, email_change: EmailChange) -> Profile:
    """The profile after a read. An older read than what is known changes nothing newer."""
    newest = max((at for _, at in profile.wanted.values()), default=Millis(0))
    profile = replace(_want(profile, seen.changes, seen.at), mapping=seen.mapping)
    if seen.at < newest or not seen.identity or seen.identity == profile.identity:
        return profile
    before = profile.identity.get("email")
    after = seen.identity.get("email")
    if not before or before == after:
        return replace(profile, identity=seen.identity)
    if email_change == "move":
        return replace(profile, identity=seen.identity, move_from=profile.identity)
    return _part(profile, seen.identity)


def _want(profile: Profile, changes: Mapping[str, Any], at: Millis) -> Profile:
    wanted = merge(profile.wanted, changes, at)
    doubtful = list(left_behind(profile.wanted, wanted, profile.confirmed))
    confirmed = lose(profile.confirmed, doubtful, at) if doubtful else profile.confirmed
    return replace(profile, wanted=wanted, confirmed=confirmed)


def _part(profile: Profile, identity: Mapping[str, str]) -> Profile:
    """The old address loses our fields, those in flight to it too; the new one starts afresh."""
    told = {name for name, (took, _) in profile.confirmed.items() if took != UNSET}
    told |= {name for name, (value, _) in profile.wanted.items() if value is not None}
    kept = tuple(f for f in profile.farewells if f.identity != identity)
    return replace(
        profile,
        identity=identity,
        confirmed={},
        profile_id=None,
        farewells=(*kept, Farewell(profile.identity, tuple(sorted(told)))),
        move_from=None,
    )


def leave(profile: Profile, at: Millis, *, on_leave: OnLeave) -> Profile:
    """The platform no longer knows the person."""
    if on_leave == "keep":
        return profile
    return _want(profile, dict.fromkeys(profile.wanted), at)


def next_write(profile: Profile, *, now: Millis, reconfirm_after: int) -> ProfileWrite | None:
    """What to tell Klaviyo next, None where it has everything: farewells first, so that no two
    profiles bear our fields for longer than they must."""
    if profile.farewells:
        first = profile.farewells[0]
        sets = {name: None for name in first.names if name[0] == "@"}
        unsets = tuple(name for name in first.names if name[0] != "@")
        return ProfileWrite(first.identity, sets, unsets, farewell=True)
    changes = pending(profile.wanted, profile.confirmed, now=now, reconfirm_after=reconfirm_after)
    if not changes and profile.move_from is None:
        return None
    sets, unsets = split(changes)
    return ProfileWrite(
        profile.identity, sets, unsets, profile.profile_id, move_from=profile.move_from
    )


def needs_one_call(write: ProfileWrite) -> bool:
    """The bulk import can neither unset nor clear nor move (docs/unverified.md)."""
    return bool(
        write.unsets
        or write.farewell
        or write.move_from
        or any(value is None for value in write.sets.values())
    )


def digests(write: ProfileWrite) -> dict[str, str]:
    return {
        **{name: digest(value) for name, value in write.sets.items()},
        **dict.fromkeys(write.unsets, UNSET),
    }


def took(
    profile: Profile, write: ProfileWrite, at: Millis, *, profile_id: str | None = None
) -> Profile:
    """Klaviyo took a write. What it took for another address than today's confirms nothing.

    A profile id that differs from the one we knew means that Klaviyo has merged two profiles, and
    whatever it had of ours may be gone: all is told again.
    """
    if write.farewell:
        left = tuple(f for f in profile.farewells if f.identity != write.identity)
        return replace(profile, farewells=left)
    if write.identity != profile.identity:
        return profile
    sent = digests(write)
    confirmed = confirm(profile.confirmed, sent, at)
    if profile_id and profile.profile_id and profile_id != profile.profile_id:
        confirmed = lose(confirmed, [name for name in confirmed if name not in sent], at)
    known = profile_id or profile.profile_id
    return replace(profile, confirmed=confirmed, profile_id=known, move_from=None)


def doubted(profile: Profile, at: Millis) -> Profile:
    """A write may have been applied, or not, or may yet be: everything is told again."""
    names = [n for n, (v, _) in profile.wanted.items() if v is not None or n in profile.confirmed]
    return replace(profile, confirmed=lose(profile.confirmed, names, at))


def write_to_json(write: ProfileWrite) -> bytes:
    return orjson.dumps(asdict(write))


def write_of_json(data: bytes) -> ProfileWrite:
    said = orjson.loads(data)
    return ProfileWrite(**said | {"unsets": tuple(said["unsets"])})


def changes_of(message: ProfileMessage) -> dict[str, Any]:
    """What the mapping rendered, as changes: attributes get their `@`, an unset is None."""
    changes: dict[str, Any] = {
        name: change[1] if len(change) == 2 else None for name, change in message.fields.items()
    }
    changes.update((f"@{name}", value) for name, value in message.attributes.items())
    return changes
