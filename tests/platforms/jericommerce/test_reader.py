"""A read returns the whole person, fetches the pass link rarely and never mixes people up."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import structlog

from connector.domain.errors import AmbiguousError, Blocked, DeliveryError, Problem, RetryLater
from connector.domain.lanes import DeliveryMode, LaneId
from connector.domain.outcomes import Gone, Observed, Retry
from connector.domain.records import Entry
from connector.mapping import load
from connector.pipeline.profile_reads import ProfileReadSink
from connector.platforms.jericommerce.api import GET_CUSTOMER, GET_TOKEN
from connector.ports import Outgoing, PersonRef
from connector.sandbox.jericommerce.people import Person
from connector.testing.fakes.clock import FakeClock
from tests.paths import MAPPINGS

from .rig import READS, Rig

PREFIX = "https://jeri.link/demo/download?token="


@pytest.fixture
async def rig() -> Rig:
    return await Rig().open()


# ── a person ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_person_is_read_by_address(rig: Rig) -> None:
    person = rig.platform.people[0]
    person.change(balance=120, tier="Gold", birthdate="1990-05-01")
    snapshot = await rig.read(person)
    assert snapshot is not None
    assert snapshot.view["balance"] == 120
    assert snapshot.view["email"] == person.email
    assert snapshot.view["birthdate"] == "1990-05-01"
    assert snapshot.view["tier"]["name"] == "Gold"
    assert snapshot.view["pass_url"].startswith(PREFIX)
    assert snapshot.covers >= {"balance", "tier", "tier.name", "birthdate", "pass_url"}


async def test_an_unknown_person_is_none_and_needs_no_token(rig: Rig) -> None:
    assert await rig.read("nobody@example.com") is None
    assert rig.tokens == 0


async def test_a_person_without_an_address_cannot_be_read(rig: Rig) -> None:
    assert await rig.reader.read(PersonRef(1, "id", None, b""), READS) is None
    assert rig.platform.state()["requests"] == {}


async def test_an_address_now_owned_by_another_person_reads_as_none(rig: Rig) -> None:
    ana, bruno = rig.platform.people[:2]
    former = ana.email
    ana.change(email="new@example.com")
    bruno.change(email=former)
    who = PersonRef(1, ana.id, former, b"")
    assert await rig.reader.read(who, READS) is None
    assert rig.tokens == 0
    snapshot = await rig.read(bruno)
    assert snapshot is not None


async def test_a_person_known_by_address_alone_is_read(rig: Rig) -> None:
    assert await rig.read(rig.platform.people[0].email) is not None


@pytest.mark.parametrize(
    ("customer", "view"),
    [
        ({}, {}),
        ({"email": "ana@example.com"}, {"email": "ana@example.com"}),
        ({"userData": None, "loyaltyData": None}, {}),
        ({"userData": {"birthdate": None}, "loyaltyData": {"balance": None}}, {}),
        ({"loyaltyData": {"balance": 0, "tierStatus": None}}, {"balance": 0}),
        ({"loyaltyData": {"tierStatus": "Gold"}}, {"tier": {"name": "Gold"}}),
        ({"loyaltyData": {"tierStatus": {"name": "Gold", "balance": None}}}, None),
    ],
)
async def test_missing_parts_are_missing_fields_not_errors(
    customer: dict[str, Any], view: dict[str, Any] | None
) -> None:
    rig = await Rig(answer=lambda request: httpx.Response(200, json=customer)).open()
    snapshot = await rig.reader.read(PersonRef(1, None, "ana@example.com", b""), frozenset())
    assert snapshot is not None
    found = dict(snapshot.view)
    assert found.pop("raw") == customer
    assert found == (view if view is not None else {"tier": {"name": "Gold"}})
    assert "pass_url" not in snapshot.covers


async def test_a_tier_with_only_a_name_does_not_cover_balance_and_dates() -> None:
    customer = {"loyaltyData": {"tierStatus": "Gold"}}
    rig = await Rig(answer=lambda request: httpx.Response(200, json=customer)).open()
    snapshot = await rig.reader.read(PersonRef(1, None, "ana@example.com", b""), frozenset())
    assert snapshot is not None
    assert "tier.name" in snapshot.covers
    assert not {"tier", "tier.balance", "tier.expires_at"} & snapshot.covers


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"{"])
async def test_a_response_that_is_not_a_customer_is_retried(body: bytes) -> None:
    rig = await Rig(answer=lambda request: httpx.Response(200, content=body)).open()
    with pytest.raises(AmbiguousError):
        await rig.read("ana@example.com")


# ── the pass link ────────────────────────────────────────────────────────────────────────────────


async def test_the_pass_link_is_fetched_once(rig: Rig) -> None:
    person = rig.platform.people[0]
    first = await rig.read(person)
    assert first is not None
    rig.clock.move(400 * 86_400)
    again = await rig.read(person, first.view)
    assert again is not None
    assert again.view["pass_url"] == first.view["pass_url"]
    assert rig.tokens == 1


async def test_an_old_link_is_fetched_again_however_often_the_person_is_read() -> None:
    rig = await Rig(pass_url_refresh="10d").open()
    person = rig.platform.people[0]
    snapshot = await rig.read(person)
    assert snapshot is not None
    links = [snapshot.view["pass_url"]]
    for _ in range(25):
        rig.clock.move(86_400)
        snapshot = await rig.read(person, snapshot.view)
        assert snapshot is not None
        links.append(snapshot.view["pass_url"])
    assert rig.tokens == len(set(links)) == 3


async def test_a_pass_event_refetches_the_link(rig: Rig) -> None:
    person = rig.platform.people[0]
    first = await rig.read(person)
    assert first is not None
    rig.clock.move(1.0)
    again = await rig.read(person, first.view, refetch=True)
    assert again is not None
    assert again.view["pass_url"] != first.view["pass_url"]
    assert rig.tokens == 2


async def test_a_mapping_that_needs_no_link_fetches_none(rig: Rig) -> None:
    who = PersonRef(1, None, rig.platform.people[0].email, b"")
    snapshot = await rig.reader.read(who, frozenset({"balance"}))
    assert snapshot is not None
    assert "pass_url" not in snapshot.view
    assert "pass_url" not in snapshot.covers
    assert rig.tokens == 0


@pytest.mark.parametrize("status", [400, 404, 409])
async def test_a_refused_link_does_not_affect_other_fields(rig: Rig, status: int) -> None:
    person = rig.platform.people[0]
    first = await rig.read(person)
    assert first is not None
    rig.platform.faults.add("customers/token", "status", status=status)
    kept = await rig.read(person, first.view, refetch=True)
    assert kept is not None
    assert kept.view["pass_url"] == first.view["pass_url"]
    never = await rig.read(rig.platform.people[1])
    assert never is not None
    assert "pass_url" not in never.covers


def _text_of(error: BaseException | None) -> str:
    """All texts of an error and its causes that a traceback shows."""
    text = ""
    while error is not None:
        text += f"{error!r} {error} {getattr(error, 'detail', '')}"
        error = error.__cause__ or error.__context__
    return text


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("status", {"status": 401}),
        ("status", {"status": 503}),
        ("html403", {}),
    ],
)
async def test_neither_link_nor_address_is_in_a_log_line_or_an_exception(
    rig: Rig, kind: Any, how: dict[str, Any]
) -> None:
    person = rig.platform.people[0]
    rig.platform.faults.add("customers/token", kind, **how)
    with structlog.testing.capture_logs() as logged, pytest.raises(DeliveryError) as caught:
        await rig.read(person)
    shown = _text_of(caught.value) + repr(logged)
    for secret in (person.email, person.email.split("@")[0], "accessToken", "token=", "jwt."):
        assert secret not in shown
    assert "jeri_sandbox" not in shown


async def test_a_token_that_cannot_be_read_is_not_quoted() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if "token" in request.url.path:
            return httpx.Response(200, content=b'{"accessToken":"jwt.very-secret')
        return httpx.Response(200, json={})

    rig = await Rig(answer=answer).open()
    snapshot = await rig.read("ana@example.com")
    assert "very-secret" not in repr(snapshot)


@pytest.mark.parametrize(
    ("kind", "how"),
    [("status", {"status": 403}), ("status", {"status": 500}), ("reset_after", {})],
)
async def test_without_a_link_the_other_fields_are_returned(
    rig: Rig, kind: Any, how: dict[str, Any]
) -> None:
    rig.platform.faults.add("customers/token", kind, **how)
    snapshot = await rig.read(rig.platform.people[0])
    assert snapshot
    assert "pass_url" not in snapshot.view
    assert "pass_url" not in snapshot.covers


# ── quota and answers ────────────────────────────────────────────────────────────────────────────


async def test_both_requests_keep_the_quota() -> None:
    """A burst of reads, each with a link to fetch, causes no 429."""
    rig = await Rig(rate=5, rate_per_second=5).open()
    for person in rig.platform.people:
        assert await rig.read(person) is not None
    await rig.reader.check()
    state = rig.platform.state()
    assert state["throttled"] == 0
    by_route: Any = state["requests"]
    requests = sum(sum(by_status.values()) for by_status in by_route.values())
    assert requests == 41
    # Permits of the lane are saved with its claim; the others are saved here.
    assert sum(usage.count for usage in rig.saved_usage) == 21


@pytest.mark.parametrize(
    ("endpoint", "status", "error"),
    [
        ("customers", 429, RetryLater),
        ("customers", 503, RetryLater),
        ("customers", 500, AmbiguousError),
        ("customers", 401, Blocked),
        ("customers", 403, Blocked),
        ("customers/token", 429, RetryLater),
        ("customers/token", 503, RetryLater),
        ("customers/token", 401, Blocked),
    ],
)
async def test_an_error_that_is_not_about_the_person_does_not_mean_absent(
    rig: Rig, endpoint: str, status: int, error: type[DeliveryError]
) -> None:
    rig.platform.faults.add(endpoint, "status", status=status)
    with pytest.raises(error):
        await rig.read(rig.platform.people[0])


async def test_check_distinguishes_a_valid_key_from_an_invalid_one(rig: Rig) -> None:
    assert [check.level for check in await rig.reader.check()] == ["ok"]
    bad = await Rig(api_key="wrong").open()
    [check] = await bad.reader.check()
    assert (check.level, check.problem) == ("fault", Problem.PLATFORM_KEY)


def test_routes_contain_no_data() -> None:
    assert "{email}" in GET_CUSTOMER
    assert "email=" not in GET_TOKEN


# ── the key of another program ───────────────────────────────────────────────────────────────────


def make_entry(number: int, person: Person, *, known: bool) -> Entry:
    return Entry(
        seq=number,
        unique_id=person.id,
        name="read",
        occurred_at=FakeClock().now(),
        received_at=FakeClock().now(),
        email=person.email,
        person=number,
        data=b'{"balance": 1}' if known else b"",
        attempts=1,
        mode=DeliveryMode.BATCH,
        mapping=None,
        backfill=False,
    )


class Reading:
    """A ProfileReadSink over a reader."""

    def __init__(self, rig: Rig) -> None:
        mapping = MAPPINGS / "jericommerce.toml"
        self.profile_reads = ProfileReadSink(
            rig.reader,
            load(mapping).mapping,
            lane=LaneId(1),
            account="A",
            email_change="new",
            on_leave="unset",
        )

    async def of(self, person: Person, *, known: bool = True) -> tuple[Any, Any]:
        """(outcome, stop)"""
        out = Outgoing(make_entry(1, person, known=known), make_entry(1, person, known=known))
        found = self.profile_reads.deliver([out], bulk=False, permits=1)
        [delivery] = [delivery async for delivery in found]
        [outcome] = delivery.outcomes
        return outcome, delivery.stop


async def test_when_most_known_people_read_as_unknown_no_person_is_marked_gone(rig: Rig) -> None:
    reading = Reading(rig)
    people = rig.platform.people
    for person in people[:14]:
        rig.platform.remove(person)
    gone = [await reading.of(person) for person in people[:5]]
    assert all(isinstance(outcome, Gone) and stop is None for outcome, stop in gone)
    outcome, stop = await reading.of(people[5])
    assert isinstance(outcome, Retry)
    assert outcome.after > 30.0, "the next probe must ask for another person"
    assert (stop.scope, stop.problem) == ("target", Problem.WRONG_PROGRAM)
    # A person who is found lets the lane run again; then the next unknown one is gone.
    for person in people[14:]:
        outcome, stop = await reading.of(person)
        assert isinstance(outcome, Observed)
        assert stop is None
    outcome, stop = await reading.of(people[6])
    assert isinstance(outcome, Gone)
    assert stop is None


async def test_unknown_people_never_read_before_do_not_count(rig: Rig) -> None:
    reading = Reading(rig)
    people = rig.platform.people
    for person in people:
        rig.platform.remove(person)
        outcome, stop = await reading.of(person, known=False)
        assert isinstance(outcome, Gone)
        assert stop is None
