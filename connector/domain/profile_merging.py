"""Two profiles of one person become one, field by field: the newer value wins. Pure."""

from __future__ import annotations

from dataclasses import replace

from connector.domain.lanes import Millis
from connector.domain.profile_state import (
    ADDRESS,
    TO,
    AddressCleanup,
    Confirmed,
    Profile,
    Wanted,
    adopt_fields,
    fields_at_address,
    invalidate,
    unconfirmed_values,
)


def merge_profiles(keep: Profile, gone: Profile) -> Profile:
    """The profile of `keep` with everything that is known of `gone`.

    With one address, what Klaviyo has there is confirmed where both agree. With two the person has
    the one of the newer observation, and the other one is cleaned up.
    """
    newer, older = (gone, keep) if _is_newer(gone, keep) else (keep, gone)
    wanted = _newest(newer.wanted, older.wanted)
    if not older.identity or older.identity == newer.identity:
        merged = _at_one_address(newer, older, wanted)
    else:
        merged = _at_two_addresses(newer, older, wanted)
    return replace(merged, person=keep.person)


def _is_newer(one: Profile, other: Profile) -> bool:
    """A profile with an identity before one without, then the newer observation."""
    if bool(one.identity) != bool(other.identity):
        return bool(one.identity)
    return _observed_at(one) > _observed_at(other)


def _observed_at(profile: Profile) -> int:
    return max((at for _, at in profile.wanted.values()), default=0)


def _newest(first: Wanted, second: Wanted) -> Wanted:
    merged = dict(second)
    for name, (value, at) in first.items():
        if name not in merged or merged[name][1] <= at:
            merged[name] = (value, at)
    return merged


def _at_one_address(newer: Profile, older: Profile, wanted: Wanted) -> Profile:
    confirmed: Confirmed = {**older.confirmed, **newer.confirmed}
    unknown = {
        name
        for name in older.confirmed.keys() & newer.confirmed.keys()
        if older.confirmed[name][0] != newer.confirmed[name][0]
    }
    for profile in (newer, older):
        unknown |= set(unconfirmed_values(profile.wanted, wanted, profile.confirmed))
    same_id = not (newer.profile_id and older.profile_id) or newer.profile_id == older.profile_id
    merged = replace(
        newer,
        wanted=wanted,
        confirmed=invalidate(confirmed, unknown, Millis(0)),
        profile_id=(newer.profile_id or older.profile_id) if same_id else None,
        pending_move=newer.pending_move or older.pending_move,
    )
    return _with_cleanups(merged, [*older.address_cleanups])


def _at_two_addresses(newer: Profile, older: Profile, wanted: Wanted) -> Profile:
    unknown = list(unconfirmed_values(newer.wanted, wanted, newer.confirmed))
    confirmed = invalidate(newer.confirmed, unknown, Millis(0)) if unknown else newer.confirmed
    merged = replace(newer, wanted=wanted, confirmed=confirmed)
    cleanups = [*older.address_cleanups]
    names = tuple(sorted(fields_at_address(older)))
    if names:
        if older.pending_move is not None:
            # The move may have been applied or not, so its fields may be at either address.
            former = dict(older.pending_move)
            address, _ = former.pop(ADDRESS, ""), former.pop(TO, "")
            cleanups.append(AddressCleanup(former, names, address, newer.address))
        cleanups.append(AddressCleanup(older.identity, names, older.address, newer.address))
    return _with_cleanups(merged, cleanups)


def _with_cleanups(profile: Profile, cleanups: list[AddressCleanup]) -> Profile:
    """The profile with these cleanups before its own. An address that is the person's now is not
    cleaned up: what was left there is sent again or unset."""
    pending = (*cleanups, *profile.address_cleanups)
    kept: dict[tuple[tuple[str, str], ...], AddressCleanup] = {}
    left_here: set[str] = set()
    for cleanup in pending:
        if cleanup.identity == profile.identity:
            left_here.update(cleanup.names)
            continue
        key = tuple(sorted(cleanup.identity.items()))
        before = kept[key].names if key in kept else ()
        names = tuple(sorted({*before, *cleanup.names}))
        kept[key] = replace(cleanup, names=names, to=profile.address)
    merged = replace(profile, address_cleanups=tuple(kept.values()))
    return adopt_fields(merged, left_here)
