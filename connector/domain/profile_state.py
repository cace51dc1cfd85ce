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

from connector.domain.lanes import Millis
from connector.domain.messages import ProfileMessage
from connector.domain.profiles import EmailChange, Observation, OnLeave, ProfileWrite

Wanted = dict[str, tuple[Any, Millis]]
Confirmed = dict[str, tuple[str, Millis]]

UNSET = "unset"
ADDRESS, TO = "address", "to"
"""In `move_from`, beside the identity: the digests of the former address and of the new one."""
UNKNOWN_DIGEST = "?"
"""A digest that equals none: Klaviyo may hold anything, so the field is sent again."""


def address_hash(account: str, email: str) -> bytes:
    """16 bytes for a profile at its account: what one write at a time is about."""
    return blake2b(f"{account}\0{email}".encode(), digest_size=16).digest()


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


def unconfirmed_values(before: Wanted, after: Wanted, confirmed: Confirmed) -> Iterator[str]:
    """The fields whose former value may be at Klaviyo although nothing says so: an event carried
    it, or a write that is still in flight. What comes after it must be told, whatever it is."""
    for name, (value, _) in before.items():
        if value is not None and after[name][0] != value:
            took = confirmed.get(name)
            if took is None or took[0] != digest(value):
                yield name


def pending_changes(wanted: Wanted, confirmed: Confirmed) -> dict[str, Any]:
    """The fields that a write must bring: value, or None to unset.

    A field that the connector never set is not unset: it belongs to another integration.
    """
    changes: dict[str, Any] = {}
    for name, (value, _) in wanted.items():
        took = confirmed.get(name)
        if took is None:
            if value is not None:
                changes[name] = value
        elif took[0] != digest(value):
            changes[name] = value
    return changes


def confirm(confirmed: Confirmed, sent: Mapping[str, str], at: Millis) -> Confirmed:
    """Klaviyo took these digests."""
    return {**confirmed, **{name: (value, at) for name, value in sent.items()}}


def invalidate(confirmed: Confirmed, names: Iterable[str], at: Millis) -> Confirmed:
    """Nobody knows what Klaviyo has for these names: they are sent again."""
    return {**confirmed, **dict.fromkeys(names, (UNKNOWN_DIGEST, at))}


def split_unsets(changes: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
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
class AddressCleanup:
    """A former address whose profile is to lose our fields."""

    identity: Mapping[str, str]
    names: tuple[str, ...]
    address: str = ""
    to: str = ""
    """Digests in hex: of this address, which who has it now inherits, and of the person's next."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A person as a state. `claimed` while a write is in flight; then only `wanted` may change."""

    person: int
    identity: Mapping[str, str] = field(default_factory=dict)
    wanted: Wanted = field(default_factory=dict)
    confirmed: Confirmed = field(default_factory=dict)
    profile_id: str | None = None
    address_cleanups: tuple[AddressCleanup, ...] = ()
    pending_move: Mapping[str, str] | None = None
    mapping: str | None = None
    address: str = ""
    """The digest of his address, in hex."""


def without_identity_if_known(
    profile: Profile, observation: Observation, *, held: bool
) -> Observation:
    """Where people are read, an event says who he is only as long as nothing else does, and not
    of one who is held: a read may have shown that nothing may be told of him."""
    if not observation.partial or not (profile.identity or held):
        return observation
    return replace(
        observation, identity={}, address=None, mapping=profile.mapping or observation.mapping
    )


def observe(profile: Profile, observation: Observation, *, email_change: EmailChange) -> Profile:
    """The profile after a read, or an event that says something of it. An older one than what is
    known changes nothing newer."""
    newest = max((at for _, at in profile.wanted.values()), default=Millis(0))
    profile = replace(
        _merge_wanted(profile, observation.changes, observation.at), mapping=observation.mapping
    )
    if not observation.identity or observation.identity == profile.identity:
        return profile
    if profile.identity and observation.at < newest:
        return profile
    before = profile.identity.get("email")
    after = observation.identity.get("email")
    address = observation.address.hex() if observation.address else ""
    if not before or before == after:
        return replace(profile, identity=observation.identity, address=address)
    if email_change == "new":
        parted = _with_cleanup(profile, observation.identity, address)
        return replace(parted, profile_id=None, pending_move=None)
    if profile.pending_move is None:
        former = {**profile.identity, ADDRESS: profile.address, TO: address}
        return replace(profile, identity=observation.identity, pending_move=former, address=address)
    return _redirect_move(profile, observation.identity, address)


def _merge_wanted(profile: Profile, changes: Mapping[str, Any], at: Millis) -> Profile:
    wanted = merge(profile.wanted, changes, at)
    doubtful = list(unconfirmed_values(profile.wanted, wanted, profile.confirmed))
    confirmed = invalidate(profile.confirmed, doubtful, at) if doubtful else profile.confirmed
    return replace(profile, wanted=wanted, confirmed=confirmed)


def _redirect_move(profile: Profile, identity: Mapping[str, str], address: str) -> Profile:
    """Another address before the move to the last one is known to have happened: it may stand at
    either. What is found at the one between loses our fields, and the first is moved from."""
    assert profile.pending_move is not None
    at_home = profile.pending_move.get("email") == identity.get("email")
    moved = adopt_fields(_with_cleanup(profile, identity, address), fields_at_address(profile))
    return replace(moved, pending_move=None if at_home else {**profile.pending_move, TO: address})


def _with_cleanup(profile: Profile, identity: Mapping[str, str], address: str) -> Profile:
    """The old address loses our fields, those in flight to it too; to the new one nothing was told
    yet but what was left there."""
    names = tuple(sorted(fields_at_address(profile)))
    back = {name for f in profile.address_cleanups if f.identity == identity for name in f.names}
    kept = tuple(
        f for f in profile.address_cleanups if f.identity not in (identity, profile.identity)
    )
    address_cleanups = (*kept, AddressCleanup(profile.identity, names, profile.address, address))
    afresh = replace(
        profile, identity=identity, confirmed={}, address_cleanups=address_cleanups, address=address
    )
    return adopt_fields(afresh, back)


def fields_at_address(profile: Profile) -> set[str]:
    """The fields that may stand at the profile's address."""
    names = {name for name, (took, _) in profile.confirmed.items() if took != UNSET}
    return names | {name for name, (value, _) in profile.wanted.items() if value is not None}


def adopt_fields(profile: Profile, names: Iterable[str]) -> Profile:
    """Somebody else's state, or one of long ago, stands in these fields at the profile's address:
    each is told again, and unset where the person has none."""
    names = set(names)
    unknown = {name: (None, Millis(0)) for name in names - profile.wanted.keys()}
    confirmed = invalidate(profile.confirmed, names, Millis(0)) if names else profile.confirmed
    return replace(profile, wanted={**profile.wanted, **unknown}, confirmed=confirmed)


def mark_gone(profile: Profile, at: Millis, *, on_leave: OnLeave) -> Profile:
    """The platform no longer knows the person."""
    if on_leave == "keep":
        return profile
    return _merge_wanted(profile, dict.fromkeys(profile.wanted), at)


def expire_confirmed(profile: Profile, *, now: Millis, after: int) -> Profile:
    """Mark the fields that Klaviyo accepted `after` ms ago or longer to be sent again."""
    expired = [
        name
        for name, (value, _) in profile.wanted.items()
        if value is not None
        and (took := profile.confirmed.get(name))
        and took[0] == digest(value)
        and now - took[1] >= after
    ]
    return replace(profile, confirmed=invalidate(profile.confirmed, expired, now))


def next_write(profile: Profile) -> ProfileWrite | None:
    """What to tell Klaviyo next, None where it has everything: farewells first, so that no two
    profiles bear our fields for longer than they must."""
    if profile.address_cleanups:
        first = profile.address_cleanups[0]
        sets = {name: None for name in first.names if name[0] == "@"}
        unsets = tuple(name for name in first.names if name[0] != "@")
        return ProfileWrite(first.identity, sets, unsets, is_cleanup=True)
    if profile.pending_move is None:
        changes = pending_changes(profile.wanted, profile.confirmed)
    else:
        # Whole, for the address may turn out to have a profile of its own.
        names = fields_at_address(profile)
        changes = {name: value for name, (value, _) in profile.wanted.items() if name in names}
    if not changes and profile.pending_move is None:
        return None
    sets, unsets = split_unsets(changes)
    return ProfileWrite(
        profile.identity, sets, unsets, profile.profile_id, pending_move=profile.pending_move
    )


def current_address(profile: Profile) -> str:
    """The digest of the person's own address, which `address` is not while a write to another one
    is in flight."""
    if profile.address_cleanups and profile.address_cleanups[-1].to:
        return profile.address_cleanups[-1].to
    return (profile.pending_move or {}).get(TO) or profile.address


def write_address(profile: Profile) -> str:
    """The digest of the address that the next write is about."""
    if profile.address_cleanups:
        return profile.address_cleanups[0].address
    return (profile.pending_move or {}).get(ADDRESS) or profile.address


def abandon_address(profile: Profile) -> tuple[Profile, tuple[str, ...]]:
    """The address whose turn it is has become another person's: it is neither cleared nor moved.
    Also returned are the fields that the other inherits with it."""
    if profile.address_cleanups:
        return replace(
            profile, address_cleanups=profile.address_cleanups[1:]
        ), profile.address_cleanups[0].names
    names = tuple(sorted(fields_at_address(profile)))
    return adopt_fields(replace(profile, pending_move=None, profile_id=None), names), names


def needs_single_call(write: ProfileWrite) -> bool:
    """The bulk import can neither unset nor clear nor move (docs/unverified.md)."""
    return bool(
        write.unsets
        or write.is_cleanup
        or write.pending_move
        or any(value is None for value in write.sets.values())
    )


def digests(write: ProfileWrite) -> dict[str, str]:
    return {
        **{name: digest(value) for name, value in write.sets.items()},
        **dict.fromkeys(write.unsets, UNSET),
    }


def apply_accepted(
    profile: Profile, write: ProfileWrite, at: Millis, *, profile_id: str | None = None
) -> Profile:
    """Klaviyo took a write. What it took for another address than today's confirms nothing.

    A profile id that differs from the one we knew means that Klaviyo has merged two profiles, and
    whatever it had of ours may be gone: all is told again.
    """
    if write.is_cleanup:
        left = tuple(f for f in profile.address_cleanups if f.identity != write.identity)
        return replace(profile, address_cleanups=left)
    if write.identity != profile.identity:
        return profile
    sent = digests(write)
    confirmed = confirm(profile.confirmed, sent, at)
    if profile_id and profile.profile_id and profile_id != profile.profile_id:
        confirmed = invalidate(confirmed, [name for name in confirmed if name not in sent], at)
    known = profile_id or profile.profile_id
    return replace(profile, confirmed=confirmed, profile_id=known, pending_move=None)


def apply_ambiguous(profile: Profile, at: Millis) -> Profile:
    """A write may have been applied, or not, or may yet be: everything is told again."""
    names = [n for n, (v, _) in profile.wanted.items() if v is not None or n in profile.confirmed]
    return replace(profile, confirmed=invalidate(profile.confirmed, names, at))


def write_to_json(write: ProfileWrite) -> bytes:
    return orjson.dumps(asdict(write))


def write_from_json(data: bytes) -> ProfileWrite:
    said = orjson.loads(data)
    return ProfileWrite(**said | {"unsets": tuple(said["unsets"])})


def changes_from_message(message: ProfileMessage) -> dict[str, Any]:
    """What the mapping rendered, as changes: attributes get their `@`, an unset is None."""
    changes: dict[str, Any] = {
        name: change[1] if len(change) == 2 else None for name, change in message.fields.items()
    }
    changes.update((f"@{name}", value) for name, value in message.attributes.items())
    return changes
