"""Profile state as pure functions: the newest value wins, and nothing is sent twice."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from connector.domain import profile_state
from connector.domain.lanes import LaneId, Millis
from connector.domain.profile_state import Profile
from connector.domain.profiles import EmailChange, Observation, ProfileWrite

DAY = 86_400_000
NAMES = st.sampled_from(["balance", "tier", "@first_name"])
VALUES = st.one_of(st.none(), st.integers(0, 3), st.sampled_from(["Gold", "Silver"]))
CHANGES = st.dictionaries(NAMES, VALUES)


def make_observation(
    changes: dict[str, Any],
    at: int,
    *,
    email: str = "ada@example.com",
    email_change: EmailChange = "new",
) -> Observation:
    return Observation(
        person=1,
        view={},
        changes=changes,
        identity={"email": email},
        at=Millis(at),
        mapping="v1",
        lane=LaneId(1),
        email_change=email_change,
    )


def observe(profile: Profile, changes: dict[str, Any], at: int, **options: Any) -> Profile:
    return profile_state.observe(profile, make_observation(changes, at, **options))


def write_of(profile: Profile) -> ProfileWrite | None:
    return profile_state.next_write(profile)


@given(st.lists(st.tuples(CHANGES, st.integers(0, 9)), max_size=8), st.randoms())
def test_the_newest_read_of_each_field_wins_in_any_order(
    reads: list[tuple[dict[str, Any], int]], random: Any
) -> None:
    unique = {at: changes for changes, at in reads}
    expected: dict[str, Any] = {}
    for at in sorted(unique):
        expected.update(unique[at])
    shuffled = list(unique.items())
    random.shuffle(shuffled)
    profile = Profile(1)
    for at, changes in shuffled:
        profile = observe(profile, changes, at)
    assert {name: value for name, (value, _) in profile.wanted.items()} == expected


@given(st.lists(CHANGES, min_size=1, max_size=8))
def test_after_every_accepted_write_klaviyo_has_what_is_wanted(
    reads: list[dict[str, Any]],
) -> None:
    profile, klaviyo = Profile(1), dict[str, Any]()
    for at, changes in enumerate(reads, 1):
        profile = observe(profile, changes, at)
        write = write_of(profile)
        if write:
            klaviyo.update(write.sets)
            for name in write.unsets:
                klaviyo.pop(name, None)
            profile = profile_state.apply_accepted(profile, write, Millis(at))
        assert write_of(profile) is None
        wanted = {n: v for n, (v, _) in profile.wanted.items() if v is not None}
        assert {n: v for n, v in klaviyo.items() if v is not None} == wanted


def test_a_field_we_never_set_is_not_unset() -> None:
    profile = observe(Profile(1), {"balance": 1, "tier": None}, 1)
    write = write_of(profile)
    assert write
    assert (write.sets, write.unsets) == ({"balance": 1}, ())
    assert not profile_state.needs_single_call(write)


def test_an_accepted_field_is_reconfirmed_after_a_while_but_an_unset_is_not() -> None:
    profile = observe(Profile(1), {"balance": 1, "tier": "Gold"}, 1)
    write = write_of(profile)
    assert write
    profile = profile_state.apply_accepted(profile, write, Millis(1))
    profile = observe(profile, {"tier": None}, 2)
    write = write_of(profile)
    assert write
    assert write.unsets == ("tier",)
    profile = profile_state.apply_accepted(profile, write, Millis(2))

    def expired(now: int) -> Profile:
        return profile_state.expire_confirmed(profile, now=Millis(now), after=30 * DAY)

    assert write_of(expired(30 * DAY)) is None
    late = write_of(expired(30 * DAY + 1))
    assert late
    assert (late.sets, late.unsets) == ({"balance": 1}, ())


def test_an_ambiguous_write_is_resent_in_full_and_unsets_what_it_may_have_set() -> None:
    profile = observe(Profile(1), {"balance": 1, "tier": "Gold", "never": None}, 1)
    profile = profile_state.apply_ambiguous(profile, Millis(1))
    profile = observe(profile, {"tier": None}, 2)
    write = write_of(profile)
    assert write
    assert (write.sets, set(write.unsets)) == ({"balance": 1}, {"tier"})


def test_an_attribute_of_klaviyos_own_is_cleared_by_null() -> None:
    profile = observe(Profile(1), {"@first_name": "Ada", "@location.city": "Paris"}, 1)
    write = write_of(profile)
    assert write
    assert profile_state.attributes_of(write.sets) == {
        "first_name": "Ada",
        "location": {"city": "Paris"},
    }
    profile = observe(
        profile_state.apply_accepted(profile, write, Millis(1)), {"@first_name": None}, 2
    )
    write = write_of(profile)
    assert write
    assert (write.sets, write.unsets) == ({"@first_name": None}, ())
    assert profile_state.needs_single_call(write)


def test_a_new_address_starts_empty_and_the_old_one_is_cleaned_up() -> None:
    profile = observe(Profile(1), {"balance": 1, "tier": None}, 1)
    write = write_of(profile)
    assert write
    profile = profile_state.apply_accepted(profile, write, Millis(1), profile_id="K1")
    # One write is in flight to the old address when the new one becomes known.
    profile = observe(profile, {"balance": 2}, 2)
    in_flight_write = write_of(profile)
    assert in_flight_write
    profile = observe(profile, {"balance": 3}, 3, email="new@example.com")
    profile = profile_state.apply_accepted(profile, in_flight_write, Millis(3))
    cleanup = write_of(profile)
    assert cleanup
    assert cleanup.is_cleanup
    assert (cleanup.identity, cleanup.unsets) == ({"email": "ada@example.com"}, ("balance",))
    profile = profile_state.apply_accepted(profile, cleanup, Millis(4))
    write = write_of(profile)
    assert write
    assert (write.identity, write.sets) == ({"email": "new@example.com"}, {"balance": 3})
    assert write.profile_id is None


def test_with_move_the_profile_gets_the_new_address() -> None:
    profile = observe(Profile(1), {"balance": 1}, 1)
    write = write_of(profile)
    assert write
    profile = profile_state.apply_accepted(profile, write, Millis(1), profile_id="K1")
    profile = observe(profile, {"balance": 1}, 2, email="new@example.com", email_change="move")
    write = write_of(profile)
    assert write
    assert write.pending_move
    assert write.pending_move["email"] == "ada@example.com"
    assert (write.identity, write.profile_id, write.sets) == (
        {"email": "new@example.com"},
        "K1",
        {"balance": 1},
    )
    assert (
        write_of(profile_state.apply_accepted(profile, write, Millis(2), profile_id="K1")) is None
    )


def test_a_second_move_before_the_first_still_moves_the_existing_profile() -> None:
    profile = observe(Profile(1), {"balance": 1}, 1)
    write = write_of(profile)
    assert write
    profile = profile_state.apply_accepted(profile, write, Millis(1))
    for at, email in ((2, "b@example.com"), (3, "c@example.com")):
        profile = observe(profile, {"balance": 1}, at, email=email, email_change="move")
    # The first move may have been applied without a confirmation: then its address has the fields.
    cleanup = write_of(profile)
    assert cleanup
    assert (cleanup.is_cleanup, cleanup.identity) == (True, {"email": "b@example.com"})
    move = write_of(profile_state.apply_accepted(profile, cleanup, Millis(3)))
    assert move
    assert move.pending_move
    assert move.pending_move["email"] == "ada@example.com"
    assert (move.identity, move.sets) == ({"email": "c@example.com"}, {"balance": 1})


def test_returning_to_a_left_address_cancels_its_cleanup() -> None:
    profile = observe(Profile(1), {"balance": 1}, 1)
    write = write_of(profile)
    assert write
    profile = profile_state.apply_accepted(profile, write, Millis(1))
    profile = observe(profile, {}, 2, email="new@example.com")
    profile = observe(profile, {}, 3)
    cleanup = write_of(profile)
    assert cleanup
    assert (cleanup.is_cleanup, cleanup.identity) == (True, {"email": "new@example.com"})
    write = write_of(profile_state.apply_accepted(profile, cleanup, Millis(3)))
    assert write
    assert not write.is_cleanup
    assert (write.identity, write.sets) == ({"email": "ada@example.com"}, {"balance": 1})


def test_a_different_profile_id_means_a_merge_and_all_fields_are_resent() -> None:
    profile = observe(Profile(1), {"balance": 1, "tier": "Gold"}, 1)
    write = write_of(profile)
    assert write
    profile = profile_state.apply_accepted(profile, write, Millis(1), profile_id="K1")
    profile = observe(profile, {"balance": 2}, 2)
    write = write_of(profile)
    assert write
    profile = profile_state.apply_accepted(profile, write, Millis(2), profile_id="K2")
    again = write_of(profile)
    assert again
    assert again.sets == {"tier": "Gold"}
    assert profile.profile_id == "K2"


def test_a_field_left_at_an_address_is_unset_on_return() -> None:
    profile = observe(Profile(1), {"balance": 1, "tier": "Gold"}, 1)
    write = write_of(profile)
    assert write
    profile = profile_state.apply_accepted(profile, write, Millis(1))
    profile = observe(profile, {"tier": None}, 2, email="new@example.com")
    profile = observe(profile, {}, 3)
    cleanup = write_of(profile)
    assert cleanup
    write = write_of(profile_state.apply_accepted(profile, cleanup, Millis(3)))
    assert write
    assert (write.sets, write.unsets) == ({"balance": 1}, ("tier",))


def test_a_person_who_leaves_keeps_or_loses_their_fields() -> None:
    profile = observe(Profile(1), {"balance": 1}, 1)
    write = write_of(profile)
    assert write
    profile = profile_state.apply_accepted(profile, write, Millis(1))
    assert write_of(profile_state.mark_gone(profile, Millis(2), on_leave="keep")) is None
    write = write_of(profile_state.mark_gone(profile, Millis(2), on_leave="unset"))
    assert write
    assert write.unsets == ("balance",)


@given(st.dictionaries(NAMES, VALUES), st.lists(st.text(max_size=5), max_size=3))
def test_a_write_round_trips_through_the_store(sets: dict[str, Any], unsets: list[str]) -> None:
    write = ProfileWrite({"email": "ada@example.com"}, sets, tuple(unsets), "K1")
    assert profile_state.write_from_json(profile_state.write_to_json(write)) == write
