"""The state of a profile, field by field: what is wanted and what Klaviyo has confirmed. Pure.

`Wanted`: field → (value or None for unset, when the read that showed it was sent).
`Confirmed`: field → (digest of what Klaviyo accepted, when). The names of Klaviyo's own attributes
(first_name, location.city) begin with `@`; every other name is a custom property.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import orjson

from connector.domain.lanes import Millis
from connector.domain.messages import ProfileMessage
from connector.domain.profiles import Observation, OnLeave, ProfileWrite

Wanted = dict[str, tuple[Any, Millis]]
Confirmed = dict[str, tuple[str, Millis]]

UNSET = "unset"
ADDRESS, TO = "address", "to"
"""Keys of `pending_move`, beside the former identity: the hashes of the former address and of the
new one, in hex."""
UNKNOWN_DIGEST = "?"
"""Differs from every digest: what Klaviyo has is unknown, so the field is sent again."""


def address_hash(account: str, email: str) -> bytes:
    """16 bytes that identify a profile within its Klaviyo account. One write at a time may be in
    flight for each."""
    return blake2b(f"{account}\0{email}".encode(), digest_size=16).digest()


def digest(value: Any) -> str:
    """Equal for values that Klaviyo stores as the same: the order of keys does not count."""
    if value is None:
        return UNSET
    encoded = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return blake2b(encoded, digest_size=8).hexdigest()


def merge(wanted: Wanted, changes: Mapping[str, Any], at: Millis) -> Wanted:
    """The changes in place of values that are older than `at` (guarantee 5)."""
    merged = dict(wanted)
    for name, value in changes.items():
        current = merged.get(name)
        if current is None or current[1] <= at:
            merged[name] = (value, at)
    return merged


def unconfirmed_values(before: Wanted, after: Wanted, confirmed: Confirmed) -> Iterator[str]:
    """Changed fields whose former value may be at Klaviyo without a confirmation: an event carried
    it, or a write in flight. The new value must be sent in any case."""
    for name, (value, _) in before.items():
        if value is not None and after[name][0] != value:
            accepted = confirmed.get(name)
            if accepted is None or accepted[0] != digest(value):
                yield name


def pending_changes(wanted: Wanted, confirmed: Confirmed) -> dict[str, Any]:
    """The fields that a write must contain: the value, or None to unset.

    A field that the connector never set is not unset: it belongs to another integration.
    """
    changes: dict[str, Any] = {}
    for name, (value, _) in wanted.items():
        accepted = confirmed.get(name)
        if accepted is None:
            if value is not None:
                changes[name] = value
        elif accepted[0] != digest(value):
            changes[name] = value
    return changes


def confirm(confirmed: Confirmed, sent: Mapping[str, str], at: Millis) -> Confirmed:
    """Klaviyo accepted these digests."""
    return {**confirmed, **{name: (value, at) for name, value in sent.items()}}


def invalidate(confirmed: Confirmed, names: Iterable[str], at: Millis) -> Confirmed:
    """What Klaviyo has for these names is unknown: they are sent again."""
    return {**confirmed, **dict.fromkeys(names, (UNKNOWN_DIGEST, at))}


def split_unsets(changes: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(fields to set, names to unset). Klaviyo's own attributes cannot be unset by name; they are
    set to null."""
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


# ── one person's profile ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class AddressCleanup:
    """A former address whose profile must lose the fields of `names`. `address` and `to` are the
    hashes of this address and of the person's next one, in hex."""

    identity: Mapping[str, str]
    names: tuple[str, ...]
    address: str = ""
    to: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """The profile of one person. `address` is the hash of their address, in hex."""

    person: int
    identity: Mapping[str, str] = field(default_factory=dict)
    wanted: Wanted = field(default_factory=dict)
    confirmed: Confirmed = field(default_factory=dict)
    profile_id: str | None = None
    address_cleanups: tuple[AddressCleanup, ...] = ()
    pending_move: Mapping[str, str] | None = None
    mapping: str | None = None
    address: str = ""


def without_identity_if_known(
    profile: Profile, observation: Observation, *, held: bool
) -> Observation:
    """The observation without the identity, where it is partial and a read knows better: the
    profile has an identity, or is held because a read showed that it must not be sent."""
    if not observation.partial or not (profile.identity or held):
        return observation
    return replace(
        observation, identity={}, address=None, mapping=profile.mapping or observation.mapping
    )


def observe(profile: Profile, observation: Observation) -> Profile:
    """The profile after an observation. An older one changes nothing that is newer."""
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
    if observation.email_change == "new":
        cleaned = _with_cleanup(profile, observation.identity, address)
        return replace(cleaned, profile_id=None, pending_move=None)
    if profile.pending_move is None:
        former = {**profile.identity, ADDRESS: profile.address, TO: address}
        return replace(profile, identity=observation.identity, pending_move=former, address=address)
    return _redirect_move(profile, profile.pending_move, observation.identity, address)


def _merge_wanted(profile: Profile, changes: Mapping[str, Any], at: Millis) -> Profile:
    wanted = merge(profile.wanted, changes, at)
    names = list(unconfirmed_values(profile.wanted, wanted, profile.confirmed))
    confirmed = invalidate(profile.confirmed, names, at) if names else profile.confirmed
    return replace(profile, wanted=wanted, confirmed=confirmed)


def _redirect_move(
    profile: Profile, pending: Mapping[str, str], identity: Mapping[str, str], address: str
) -> Profile:
    """A further address before the pending move is confirmed: the profile may be at either of the
    two. The one between is cleaned up, and the move begins at the first one."""
    returned = pending.get("email") == identity.get("email")
    moved = adopt_fields(_with_cleanup(profile, identity, address), fields_at_address(profile))
    return replace(moved, pending_move=None if returned else {**pending, TO: address})


def _with_cleanup(profile: Profile, identity: Mapping[str, str], address: str) -> Profile:
    """The profile at its new address. The old one is to be cleaned up, fields in flight included.
    The new one has no confirmed fields, but may have those whose cleanup is still pending."""
    cleanups = profile.address_cleanups
    left_there = {name for c in cleanups if c.identity == identity for name in c.names}
    others = [c for c in cleanups if c.identity not in (identity, profile.identity)]
    names = tuple(sorted(fields_at_address(profile)))
    cleanup = AddressCleanup(profile.identity, names, profile.address, address)
    moved = replace(
        profile,
        identity=identity,
        confirmed={},
        address_cleanups=(*others, cleanup),
        address=address,
    )
    return adopt_fields(moved, left_there)


def fields_at_address(profile: Profile) -> set[str]:
    """The fields that the profile may have at its address."""
    names = {name for name, (accepted, _) in profile.confirmed.items() if accepted != UNSET}
    return names | {name for name, (value, _) in profile.wanted.items() if value is not None}


def adopt_fields(profile: Profile, names: Iterable[str]) -> Profile:
    """At the profile's address these fields have values of another person or of an earlier time:
    each is sent again, or unset where the person has no value."""
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
    """The next write, None where Klaviyo has everything. Cleanups come first, so that two profiles
    have the same person's fields as briefly as possible."""
    if profile.address_cleanups:
        first = profile.address_cleanups[0]
        sets = {name: None for name in first.names if name[0] == "@"}
        unsets = tuple(name for name in first.names if name[0] != "@")
        return ProfileWrite(first.identity, sets, unsets, is_cleanup=True)
    if profile.pending_move is None:
        changes = pending_changes(profile.wanted, profile.confirmed)
    else:
        # All fields, because the new address may have a profile of its own.
        names = fields_at_address(profile)
        changes = {name: value for name, (value, _) in profile.wanted.items() if name in names}
    if not changes and profile.pending_move is None:
        return None
    sets, unsets = split_unsets(changes)
    return ProfileWrite(
        profile.identity, sets, unsets, profile.profile_id, pending_move=profile.pending_move
    )


def current_address(profile: Profile) -> str:
    """The hash of the person's own address. `address` is another one while a write to that one is
    in flight."""
    if profile.address_cleanups and profile.address_cleanups[-1].to:
        return profile.address_cleanups[-1].to
    return (profile.pending_move or {}).get(TO) or profile.address


def write_address(profile: Profile) -> str:
    """The hash of the address that the next write changes."""
    if profile.address_cleanups:
        return profile.address_cleanups[0].address
    return (profile.pending_move or {}).get(ADDRESS) or profile.address


def abandon_address(profile: Profile) -> tuple[Profile, tuple[str, ...]]:
    """Drop the next cleanup or move, because its address belongs to another person now. Returns
    the profile, and the fields that the other person takes over with the address."""
    if profile.address_cleanups:
        first, *others = profile.address_cleanups
        return replace(profile, address_cleanups=tuple(others)), first.names
    names = tuple(sorted(fields_at_address(profile)))
    return adopt_fields(replace(profile, pending_move=None, profile_id=None), names), names


def needs_single_call(write: ProfileWrite) -> bool:
    """Whether the write unsets, clears or moves, which bulk import cannot (docs/unverified.md)."""
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
    """The profile after Klaviyo accepted a write. A write to an earlier address confirms nothing.

    A `profile_id` other than the known one means that Klaviyo merged two profiles. Fields may be
    lost by that, so all are sent again.
    """
    if write.is_cleanup:
        pending = tuple(c for c in profile.address_cleanups if c.identity != write.identity)
        return replace(profile, address_cleanups=pending)
    if write.identity != profile.identity:
        return profile
    sent = digests(write)
    confirmed = confirm(profile.confirmed, sent, at)
    if profile_id and profile.profile_id and profile_id != profile.profile_id:
        confirmed = invalidate(confirmed, [name for name in confirmed if name not in sent], at)
    return replace(
        profile,
        confirmed=confirmed,
        profile_id=profile_id or profile.profile_id,
        pending_move=None,
    )


def apply_ambiguous(profile: Profile, at: Millis) -> Profile:
    """The profile after a write that may have been applied, or may still be: all fields are sent
    again."""
    names = [n for n, (v, _) in profile.wanted.items() if v is not None or n in profile.confirmed]
    return replace(profile, confirmed=invalidate(profile.confirmed, names, at))


def write_to_json(write: ProfileWrite) -> bytes:
    return orjson.dumps(write)


def write_from_json(data: bytes) -> ProfileWrite:
    fields = orjson.loads(data)
    return ProfileWrite(**fields | {"unsets": tuple(fields["unsets"])})


def changes_from_message(message: ProfileMessage) -> dict[str, Any]:
    """The changes of a rendered profile: attributes get their `@`, an unset is None."""
    changes: dict[str, Any] = {
        name: change[1] if len(change) == 2 else None for name, change in message.fields.items()
    }
    changes.update((f"@{name}", value) for name, value in message.attributes.items())
    return changes
