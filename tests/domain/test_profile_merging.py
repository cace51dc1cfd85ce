"""Two profiles that become one: nothing newer is lost, and nothing is confirmed that is not."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from connector.domain.lanes import Millis
from connector.domain.profile_merging import merge_profiles
from connector.domain.profile_state import (
    ADDRESS,
    TO,
    UNKNOWN_DIGEST,
    UNSET,
    AddressCleanup,
    Profile,
    current_address,
    digest,
    fields_at_address,
    next_write,
    pending_changes,
)

FIELDS = ("balance", "tier", "@first_name")
EMAILS = ("ana@example.com", "bo@example.com", "cy@example.com")
times = st.integers(1, 5).map(Millis)
values = st.sampled_from([None, 1, 2])


def address(email: str) -> str:
    return email.encode().hex()


@st.composite
def profiles(draw: Any, person: int) -> Profile:
    """A profile, perhaps without an identity, with a cleanup or a move."""
    wanted = draw(st.dictionaries(st.sampled_from(FIELDS), st.tuples(values, times)))
    email = draw(st.sampled_from([None, *EMAILS]))
    if email is None:
        return Profile(person, wanted=wanted)
    digests = values.map(digest) | st.just(UNKNOWN_DIGEST)
    confirmed = draw(st.dictionaries(st.sampled_from(FIELDS), st.tuples(digests, times)))
    others = [other for other in EMAILS if other != email]
    cleanups = tuple(
        AddressCleanup({"email": other}, ("tier",), address(other), address(email))
        for other in draw(st.lists(st.sampled_from(others), unique=True))
    )
    move = None
    if not cleanups and draw(st.booleans()):
        other = draw(st.sampled_from(others))
        move = {"email": other, ADDRESS: address(other), TO: address(email)}
    return Profile(
        person,
        {"email": email},
        wanted,
        confirmed,
        address_cleanups=cleanups,
        pending_move=move,
        address=address(email),
    )


@given(profiles(1), profiles(2))
def test_each_field_has_its_newest_value(keep: Profile, gone: Profile) -> None:
    merged = merge_profiles(keep, gone)
    assert merged.person == keep.person
    for name in keep.wanted.keys() | gone.wanted.keys():
        found = [p.wanted[name] for p in (keep, gone) if name in p.wanted]
        newest = max(at for _, at in found)
        assert merged.wanted[name][1] == newest
        assert merged.wanted[name] in found


@given(profiles(1), profiles(2))
def test_a_field_is_confirmed_only_where_nothing_contradicts(keep: Profile, gone: Profile) -> None:
    merged = merge_profiles(keep, gone)
    changes = pending_changes(merged.wanted, merged.confirmed)
    here = [p for p in (keep, gone) if p.identity == merged.identity]
    for name, (value, _) in merged.wanted.items():
        if name in changes:
            continue
        for profile in here:
            accepted = profile.confirmed.get(name, (None,))[0]
            assert accepted in (None, digest(value), UNSET)
            former = profile.wanted.get(name, (None,))[0]
            if former is not None and former != value:
                assert accepted == digest(value), "the former value may be at Klaviyo"


@given(profiles(1), profiles(2))
def test_every_address_with_fields_is_the_persons_or_is_cleaned_up(
    keep: Profile, gone: Profile
) -> None:
    merged = merge_profiles(keep, gone)
    cleaned = [tuple(c.identity.values()) for c in merged.address_cleanups]
    assert len(cleaned) == len(set(cleaned))
    assert tuple(merged.identity.values()) not in cleaned
    for profile in (keep, gone):
        moved = merged.pending_move is not None
        if profile.identity and profile.identity != merged.identity and fields_at_address(profile):
            assert tuple(profile.identity.values()) in cleaned or moved
        for cleanup in profile.address_cleanups:
            left = tuple(cleanup.identity.values())
            assert left in cleaned or cleanup.identity == merged.identity
    if merged.identity:
        assert current_address(merged) == address(merged.identity["email"])


@given(profiles(1), profiles(2))
def test_a_profile_without_anything_changes_nothing(keep: Profile, gone: Profile) -> None:
    empty = Profile(gone.person)
    assert next_write(merge_profiles(keep, empty)) == next_write(keep)
    assert next_write(merge_profiles(empty, keep)) == next_write(keep)
