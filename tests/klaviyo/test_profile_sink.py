"""Profiles reach Klaviyo whole or fail one by one, and nothing else of a person is changed."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openapi_client.models.profile_import_job_create_query import ProfileImportJobCreateQuery
from openapi_client.models.profile_partial_update_query import ProfilePartialUpdateQuery
from openapi_client.models.profile_upsert_query import ProfileUpsertQuery

from connector.domain import profile_state
from connector.domain.errors import Problem
from connector.domain.messages import Fault
from connector.domain.outcomes import (
    UNKNOWN_JOB,
    Accepted,
    Ambiguous,
    Dead,
    Delivery,
    Outcome,
    Pending,
    Retry,
    Unsent,
)
from connector.domain.profiles import ProfileWrite
from connector.klaviyo.limits import BODY_MAX, LIMITS, PROFILE_MAX
from connector.klaviyo.sink import profile_body
from connector.klaviyo.sink.profiles import ProfileSink
from connector.mapping import compile_mapping
from connector.platforms.jericommerce.view import person_covers, person_view
from connector.ports import Outgoing
from connector.sandbox import KlaviyoSandbox

from .conftest import WIDE, AutoAdvancingClock, Rig, make_entry
from .test_event_body import assert_kept

ANA, BRUNO, NEW = "ana@example.com", "bruno@example.com", "new@example.com"
JOBS = "profile-bulk-import-jobs"
CONSENT = re.compile(rb"consent|subscri|suppress|marketing|opt_?in|sms|push", re.IGNORECASE)


def make_write(email: str = ANA, **changes: Any) -> ProfileWrite:
    values: dict[str, Any] = {"identity": {"email": email}, "sets": {"balance": 5}}
    return ProfileWrite(**{**values, **changes})


class Watched(httpx.AsyncBaseTransport):
    """The way to an app; keeps what was sent, and what the sandbox breaks off is a broken line."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app)
        self.sent: list[tuple[str, str, bytes]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.append((request.method, request.url.path, request.content))
        try:
            return await self._inner.handle_async_request(request)
        except ConnectionResetError as error:
            raise httpx.ReadError("reset") from error


class Sinks:
    """A ProfileSink over the sandbox."""

    def __init__(self, klaviyo: KlaviyoSandbox | None = None, answer: Any = None) -> None:
        clock = AutoAdvancingClock()
        self.klaviyo = klaviyo or KlaviyoSandbox(now=lambda: clock.now() / 1000, limits=False)
        self.wire = Watched(self.klaviyo.app)
        transport: Any = httpx.MockTransport(answer) if answer else self.wire
        wide = dict.fromkeys(LIMITS, WIDE)
        self.rig = Rig(transport=transport, limits=wide, clock=clock)
        self.sink = ProfileSink(self.rig.api)
        self.deliveries: list[Delivery] = []

    async def deliver(
        self, *writes: ProfileWrite, bulk: bool = False, permits: int | None = None
    ) -> list[Outcome]:
        """The outcome of each write, in their order; fails where one has none or two."""
        outs = [Outgoing(make_entry(seq), write) for seq, write in enumerate(writes)]
        permits = permits or (1 if bulk else len(outs))
        found = self.sink.deliver(outs, bulk=bulk, permits=permits)
        self.deliveries = [delivery async for delivery in found]
        outcomes = [o for delivery in self.deliveries for o in delivery.outcomes]
        assert sorted(o.seq for o in outcomes) == list(range(len(writes)))
        return sorted(outcomes, key=lambda o: o.seq)

    async def one(self, write: ProfileWrite) -> Outcome:
        return (await self.deliver(write))[0]

    @property
    def sent(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path, _ in self.wire.sent]

    def fields(self, email: str) -> dict[str, Any] | None:
        found = self.klaviyo.profile(email)
        return None if found is None else found["properties"]


@pytest.fixture
def sinks() -> Sinks:
    return Sinks()


@pytest.fixture(autouse=True)
def judged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Every body that a test here sends keeps guarantee 7 and passes Klaviyo's own models."""
    bodies: list[bytes] = []
    inner = Watched.handle_async_request

    async def watched(self: Watched, request: httpx.Request) -> httpx.Response:
        if request.content:
            bodies.append(request.content)
        return await inner(self, request)

    monkeypatch.setattr(Watched, "handle_async_request", watched)
    yield bodies
    for body in bodies:
        assert_no_consent(orjson.loads(body))


def assert_no_consent(value: Any) -> None:
    """No key below says anything about consent, a subscription or a suppression."""
    if isinstance(value, dict):
        for key, inner in value.items():
            assert not CONSENT.search(key.encode()), key
            assert_no_consent(inner)
    elif isinstance(value, list):
        for inner in value:
            assert_no_consent(inner)


# ── one by one ───────────────────────────────────────────────────────────────────────────────────


async def test_a_profile_is_created_then_updated_and_its_id_returned(sinks: Sinks) -> None:
    made = await sinks.one(make_write(sets={"balance": 5, "@first_name": "Ana"}))
    again = await sinks.one(make_write(sets={"balance": 6}))
    id = sinks.klaviyo.profile_id(ANA)
    assert isinstance(made, Accepted)
    assert isinstance(again, Accepted)
    assert made.ref == again.ref == id is not None
    assert sinks.klaviyo.profile(ANA) == {
        "email": ANA,
        "first_name": "Ana",
        "properties": {"balance": 6},
    }
    assert sinks.klaviyo.state()["requests"] == {"POST /api/profile-import": {"201": 1, "200": 1}}


async def test_sets_and_unsets_go_in_one_call_and_no_custom_field_is_null(sinks: Sinks) -> None:
    await sinks.one(make_write(sets={"balance": 5, "tier": "Gold", "theirs": 1, "@title": "Dr"}))
    await sinks.one(make_write(sets={"balance": 6, "@title": None}, unsets=("tier", "nothing")))
    assert len(sinks.sent) == 2
    data = orjson.loads(sinks.wire.sent[1][2])["data"]
    assert data == {
        "type": "profile",
        "attributes": {"email": ANA, "title": None, "properties": {"balance": 6}},
        "meta": {"patch_properties": {"unset": ["tier", "nothing"]}},
    }
    assert sinks.klaviyo.profile(ANA) == {
        "email": ANA,
        "properties": {"balance": 6, "theirs": 1},
    }


async def test_an_address_cleanup_removes_our_fields_and_nothing_else(sinks: Sinks) -> None:
    await sinks.one(make_write(sets={"balance": 5, "theirs": 1}))
    bye = make_write(sets={}, unsets=("balance",), is_cleanup=True)
    assert isinstance(await sinks.one(bye), Accepted)
    assert sinks.fields(ANA) == {"theirs": 1}
    assert [method for method, _ in sinks.sent] == ["POST", "GET", "PATCH"]


async def test_an_address_cleanup_for_an_unknown_address_creates_nothing(
    sinks: Sinks,
) -> None:
    bye = make_write(sets={}, unsets=("balance",), is_cleanup=True)
    assert isinstance(await sinks.one(bye), Accepted)
    assert sinks.klaviyo.state()["profiles"] == 0
    assert sinks.sent == [("GET", "/api/profiles")]


@pytest.mark.parametrize("known", [True, False])
async def test_an_address_move_sets_the_new_address(sinks: Sinks, known: bool) -> None:
    await sinks.one(make_write(sets={"balance": 5, "theirs": 1}))
    id = sinks.klaviyo.profile_id(ANA)
    moved = make_write(NEW, pending_move={"email": ANA}, profile_id=id if known else None)
    outcome = await sinks.one(moved)
    assert isinstance(outcome, Accepted)
    assert outcome.ref == id == sinks.klaviyo.profile_id(NEW)
    assert sinks.fields(ANA) is None
    assert sinks.fields(NEW) == {"balance": 5, "theirs": 1}


async def test_a_move_to_an_address_in_use_merges_no_profiles(sinks: Sinks) -> None:
    await sinks.one(make_write(sets={"balance": 5, "tier": "Gold", "theirs": 1, "@title": "Dr"}))
    await sinks.one(make_write(NEW, sets={"theirs": 2}))
    former, taken = sinks.klaviyo.profile_id(ANA), sinks.klaviyo.profile_id(NEW)
    outcome = await sinks.one(
        make_write(
            NEW,
            sets={"balance": 5, "@title": "Dr"},
            unsets=("tier",),
            pending_move={"email": ANA},
            profile_id=former,
        )
    )
    assert isinstance(outcome, Accepted)
    assert outcome.ref == taken
    assert sinks.klaviyo.profile(ANA) == {"email": ANA, "properties": {"theirs": 1}}
    assert sinks.klaviyo.profile(NEW) == {
        "email": NEW,
        "title": "Dr",
        "properties": {"balance": 5, "theirs": 2},
    }
    assert (sinks.klaviyo.profile_id(ANA), sinks.klaviyo.profile_id(NEW)) == (former, taken)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"kind": "status", "status": 429, "retry_after": 3}, Retry),
        ({"kind": "reset_before"}, Ambiguous),
    ],
)
async def test_an_address_in_use_is_written_only_after_the_old_one_is_cleared(
    sinks: Sinks, fault: dict[str, Any], expected: type
) -> None:
    await sinks.one(make_write())
    await sinks.one(make_write(NEW, sets={}))
    id = sinks.klaviyo.profile_id(ANA)
    move = make_write(NEW, pending_move={"email": ANA}, profile_id=id)
    sinks.klaviyo.faults.parse(
        {"endpoint": "profiles/{id}", "match": "patch_properties", "count": 1, **fault}
    )
    assert isinstance(await sinks.one(move), expected)
    assert sinks.fields(NEW) == {}
    assert isinstance(await sinks.one(move), Accepted)
    assert (sinks.fields(ANA), sinks.fields(NEW)) == ({}, {"balance": 5})


async def test_a_move_of_a_profile_unknown_to_klaviyo_writes_the_new_address(sinks: Sinks) -> None:
    assert isinstance(await sinks.one(make_write(NEW, pending_move={"email": ANA})), Accepted)
    assert (sinks.fields(ANA), sinks.fields(NEW)) == (None, {"balance": 5})


@pytest.mark.parametrize("is_cleanup", [True, False])
async def test_a_profile_deleted_meanwhile_is_not_an_error(sinks: Sinks, is_cleanup: bool) -> None:
    gone = "01SANDBX" + "9" * 18
    if is_cleanup:
        sinks.klaviyo.faults.add("profiles/{id}", "status", status=404, count=1)
        await sinks.one(make_write())
        outcome = await sinks.one(make_write(sets={}, unsets=("balance",), is_cleanup=True))
    else:
        outcome = await sinks.one(make_write(NEW, pending_move={"email": ANA}, profile_id=gone))
        assert sinks.fields(NEW) == {"balance": 5}
    assert isinstance(outcome, Accepted)
    assert [delivery.stop for delivery in sinks.deliveries] == [None]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_failed_lookup_is_retried_and_writes_nothing(sinks: Sinks, status: int) -> None:
    await sinks.one(make_write())
    sinks.klaviyo.faults.add("profiles", "status", status=status, count=1)
    outcome = await sinks.one(make_write(sets={}, unsets=("balance",), is_cleanup=True))
    assert isinstance(outcome, Retry)
    assert sinks.fields(ANA) == {"balance": 5}


# ── identities ───────────────────────────────────────────────────────────────────────────────────


async def test_identifiers_of_two_profiles_are_resolved_by_the_address_alone(sinks: Sinks) -> None:
    await sinks.one(make_write(ANA, sets={}))
    await sinks.one(ProfileWrite({"phone_number": "+34600000001"}, {"theirs": 1}))
    both = {"email": ANA, "phone_number": "+34600000001"}
    outcome = await sinks.one(ProfileWrite(both, {"balance": 5}))
    assert isinstance(outcome, Accepted)
    assert outcome.ref == sinks.klaviyo.profile_id(ANA)
    assert sinks.klaviyo.profile(ANA) == {"email": ANA, "properties": {"balance": 5}}
    statuses = [r.status for delivery in sinks.deliveries for r in delivery.requests]
    assert statuses == [409, 200]


async def test_where_the_address_alone_conflicts_too_klaviyos_own_id_is_used() -> None:
    seen: list[tuple[str, str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = orjson.loads(request.content)["data"]
        seen.append((request.method, request.url.path, body))
        if request.method == "PATCH":
            return httpx.Response(200, json={"data": {"id": "TWIN"}})
        error = {"code": "duplicate_profile", "meta": {"duplicate_profile_id": "TWIN"}}
        return httpx.Response(409, json={"errors": [error]})

    both = {"email": ANA, "phone_number": "+34600000001"}
    outcome = await Sinks(answer=answer).one(ProfileWrite(both, {"balance": 5}, ("tier",)))
    assert isinstance(outcome, Accepted)
    assert outcome.ref == "TWIN"
    assert [(method, path) for method, path, _ in seen] == [
        ("POST", "/api/profile-import"),
        ("POST", "/api/profile-import"),
        ("PATCH", "/api/profiles/TWIN"),
    ]
    assert seen[1][2]["attributes"] == {"email": ANA, "properties": {"balance": 5}}
    assert seen[2][2] == {
        "type": "profile",
        "id": "TWIN",
        "attributes": {"properties": {"balance": 5}},
        "meta": {"patch_properties": {"unset": ["tier"]}},
    }


async def test_a_conflict_without_an_id_is_a_dead_letter() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(409, json={"errors": [{"code": "duplicate_profile"}]})

    outcome = await Sinks(answer=answer).one(make_write())
    assert isinstance(outcome, Dead)
    assert outcome.problem is Problem.KLAVIYO_CONFLICT


async def test_no_import_carries_an_id_so_the_misleading_404_cannot_occur(
    sinks: Sinks,
) -> None:
    """Klaviyo answers 404 to an id beside another person's address although the id exists."""
    await sinks.one(make_write(ANA))
    await sinks.one(make_write(BRUNO))
    id = sinks.klaviyo.profile_id(ANA)
    outcome = await sinks.one(make_write(BRUNO, sets={"balance": 9}, profile_id=id))
    assert isinstance(outcome, Accepted)
    assert outcome.ref == sinks.klaviyo.profile_id(BRUNO) != id
    assert (sinks.fields(ANA), sinks.fields(BRUNO)) == ({"balance": 5}, {"balance": 9})
    for method, _, body in sinks.wire.sent:
        assert method == "POST"
        assert "id" not in orjson.loads(body)["data"]


MAPPING = compile_mapping(
    """
version = 1
source = "jericommerce"
[identity]
email = ["email"]
phone_number = ["phone"]
default_region = "ES"
[profile.fields.balance]
from = ["balance"]
type = "number"
""",
    origin="test",
)


@pytest.mark.parametrize(
    ("phone", "sent"),
    [
        ("600 00 00 01", "+34600000001"),
        ("+49 30 901820", "+4930901820"),
        ("0034600000001", "+34600000001"),
        ("12", None),
        ("call me", None),
        (None, None),
    ],
)
async def test_a_phone_number_is_e164_or_left_out(
    sinks: Sinks, phone: str | None, sent: str | None
) -> None:
    customer = {"email": ANA, "userData": {"phone": phone}, "loyaltyData": {"balance": 5}}
    view = person_view(customer, {})
    identity = MAPPING.identify(view)
    assert not isinstance(identity, Fault)
    message = MAPPING.render_profile(view, person_covers(customer))
    changes = profile_state.changes_from_message(message)
    outcome = await sinks.one(ProfileWrite(identity.values, changes))
    assert isinstance(outcome, Accepted)
    found = sinks.klaviyo.profile(ANA)
    assert found is not None
    assert found.get("phone_number") == sent
    assert sinks.klaviyo.violations == {}


# ── limits ───────────────────────────────────────────────────────────────────────────────────────


def of_size(size: int, email: str = ANA) -> ProfileWrite:
    """A write whose profile has so many bytes."""
    empty = len(profile_body.item(make_write(email, sets={"note": ""})))
    return make_write(email, sets={"note": "x" * (size - empty)})


@pytest.mark.parametrize("bulk", [True, False])
async def test_a_profile_of_more_than_100_kb_is_never_sent(sinks: Sinks, bulk: bool) -> None:
    [outcome] = await sinks.deliver(of_size(PROFILE_MAX + 1), bulk=bulk)
    assert isinstance(outcome, Dead)
    assert outcome.problem is Problem.RECORD_TOO_LARGE
    assert "100000 allowed" in outcome.detail
    assert sinks.sent == []


async def test_a_profile_of_exactly_100_kb_is_sent_in_bulk(sinks: Sinks) -> None:
    [outcome] = await sinks.deliver(of_size(PROFILE_MAX), bulk=True)
    assert isinstance(outcome, Pending)
    assert sinks.klaviyo.violations == {}


async def test_the_largest_profile_for_a_single_request_is_accepted(sinks: Sinks) -> None:
    """The limit is on the body, which has a few bytes around the profile."""
    around = len(profile_body.upsert(make_write())) - len(profile_body.item(make_write()))
    assert isinstance(await sinks.one(of_size(PROFILE_MAX - around)), Accepted)
    assert sinks.klaviyo.violations == {}


async def test_a_request_has_at_most_5_mb_and_the_rest_waits_for_quota(sinks: Sinks) -> None:
    writes = [of_size(95_000, f"p{n}@example.com") for n in range(120)]
    outcomes = await sinks.deliver(*writes, bulk=True, permits=2)
    assert len(sinks.sent) == 2
    assert all(len(body) <= BODY_MAX for _, _, body in sinks.wire.sent)
    counts = Counter(type(outcome) for outcome in outcomes)
    assert counts == {Pending: 104, Unsent: 16}
    places = [(o.receipt, o.position) for o in outcomes if isinstance(o, Pending)]
    assert len(set(places)) == 104
    assert {place for _, place in places} == set(range(52))


async def test_a_job_has_at_most_10_000_profiles(sinks: Sinks) -> None:
    writes = [make_write(f"p{n}@example.com") for n in range(10_001)]
    outcomes = await sinks.deliver(*writes, bulk=True, permits=1)
    assert Counter(type(outcome) for outcome in outcomes) == {Pending: 10_000, Unsent: 1}
    assert isinstance(outcomes[-1], Unsent)
    [job] = sinks.klaviyo.jobs.all()
    assert job.total == 10_000
    assert sinks.klaviyo.violations == {}


# ── in bulk ──────────────────────────────────────────────────────────────────────────────────────


def crowd(count: int, poison: Sequence[int] = ()) -> list[ProfileWrite]:
    return [
        make_write(f"p{n}@example.com", sets={"note": "poison." if n in poison else n})
        for n in range(count)
    ]


@pytest.mark.parametrize("pointer", [True, False])
async def test_one_bad_profile_does_not_fail_the_others(sinks: Sinks, pointer: bool) -> None:
    sinks.klaviyo.faults.add(JOBS, "poison", match="poison.", pointer=pointer)
    outcomes = await sinks.deliver(*crowd(9, poison=[2, 7]), bulk=True)
    dead = [o.seq for o in outcomes if isinstance(o, Dead)]
    assert dead == [2, 7]
    jobs = {job.id: job for job in sinks.klaviyo.jobs.all()}
    for outcome in outcomes:
        if isinstance(outcome, Pending):
            person = jobs[outcome.receipt].people[outcome.position]
            assert person.attributes["email"] == f"p{outcome.seq}@example.com"
    assert (len(sinks.sent) == 2) is pointer


def assert_unknown_job(outcomes: Sequence[Outcome]) -> None:
    """All wait for one job that may exist."""
    [receipt] = {outcome.receipt for outcome in outcomes if isinstance(outcome, Pending)}
    assert receipt.startswith(UNKNOWN_JOB)
    assert all(isinstance(outcome, Pending) for outcome in outcomes)


async def test_a_job_without_an_id_is_pending_with_an_unknown_job(sinks: Sinks) -> None:
    sinks.klaviyo.faults.add(JOBS, "empty_job_id", count=1)
    outcomes = await sinks.deliver(*crowd(3), bulk=True)
    assert [getattr(o, "problem", 0) for o in outcomes] == [None] * 3
    assert_unknown_job(outcomes)


@pytest.mark.parametrize("kind", ["reset_before", "reset_after", "status", "truncate"])
async def test_a_job_without_a_response_is_pending_with_an_unknown_job(
    sinks: Sinks, kind: Any
) -> None:
    if kind == "truncate":

        def answer(request: httpx.Request) -> httpx.Response:
            return httpx.Response(202, content=b'{"data":{"ty')

        sinks = Sinks(answer=answer)
    else:
        sinks.klaviyo.faults.add(JOBS, kind, count=1)
    outcomes = await sinks.deliver(*crowd(3), bulk=True)
    assert_unknown_job(outcomes)
    if kind != "truncate":
        assert [getattr(o, "problem", None) for o in outcomes].count(None) == 0


FAULTS = st.lists(
    st.fixed_dictionaries(
        {
            "endpoint": st.just(JOBS),
            "count": st.integers(1, 3),
        }
    ).flatmap(
        lambda base: st.sampled_from(
            [
                {"kind": "status", "status": 429, "retry_after": 1},
                {"kind": "status", "status": 500},
                {"kind": "status", "status": 500, "applied": True},
                {"kind": "status", "status": 400},
                {"kind": "status", "status": 401},
                {"kind": "status", "status": 413},
                {"kind": "html403"},
                {"kind": "reset_before"},
                {"kind": "reset_after"},
                {"kind": "empty_job_id"},
                {"kind": "poison", "match": "poison.", "pointer": True},
                {"kind": "poison", "match": "poison.", "pointer": False},
            ]
        ).map(lambda fault: {**base, **fault})
    ),
    max_size=4,
)


@settings(max_examples=120, deadline=None)
@given(FAULTS, st.integers(1, 12), st.sets(st.integers(0, 11)), st.integers(1, 3))
def test_for_any_response_every_profile_has_one_outcome(
    faults: list[dict[str, Any]], count: int, poison: set[int], permits: int
) -> None:
    async def run() -> None:
        sinks = Sinks()
        for fault in faults:
            sinks.klaviyo.faults.parse(fault)
        outcomes = await sinks.deliver(*crowd(count, list(poison)), bulk=True, permits=permits)
        jobs = {job.id: job for job in sinks.klaviyo.jobs.all()}
        queued = {p.attributes["email"] for job in jobs.values() for p in job.people}
        for outcome in outcomes:
            email = f"p{outcome.seq}@example.com"
            if isinstance(outcome, Pending) and not outcome.receipt.startswith(UNKNOWN_JOB):
                person = jobs[outcome.receipt].people[outcome.position]
                assert person.attributes["email"] == email
            elif isinstance(outcome, Retry | Unsent | Dead):
                assert email not in queued
        await sinks.rig.api.aclose()

    asyncio.run(run())


# ── shapes, judged by what we did not write ──────────────────────────────────────────────────────

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
SETS = st.dictionaries(
    st.one_of(TEXT.filter(lambda n: n[0] != "@"), st.sampled_from(["balance", "tier_name"])),
    st.one_of(st.integers(-(2**53), 2**53), st.floats(-1e9, 1e9), st.booleans(), TEXT),
    max_size=6,
)
OWN = st.dictionaries(
    st.sampled_from(["@first_name", "@last_name", "@locale", "@location.city", "@location.zip"]),
    st.one_of(st.none(), TEXT),
    max_size=3,
)
WRITES = st.builds(
    lambda sets, own, unsets, id: ProfileWrite(
        {"email": ANA}, {**sets, **own}, tuple(sorted(unsets)), id
    ),
    SETS,
    OWN,
    st.sets(TEXT.filter(lambda n: n[0] != "@"), max_size=3),
    st.one_of(st.none(), st.just("01SANDBX000000000000000000")),
)


@settings(max_examples=150, deadline=None)
@given(WRITES)
def test_the_official_sdk_and_the_sandbox_accept_what_we_write(write: ProfileWrite) -> None:
    judges: list[tuple[Any, bytes]] = [
        (ProfileUpsertQuery, profile_body.upsert(write)),
        (ProfilePartialUpdateQuery, profile_body.update(write, "01SANDBX000000000000000000")),
        (
            ProfileImportJobCreateQuery,
            profile_body.ENVELOPE.body([profile_body.item(write)] * 2),
        ),
    ]
    for model, body in judges:
        read = model.from_json(body.decode())
        assert read is not None
        assert_kept(orjson.loads(body), read.model_dump(by_alias=True, mode="json"))
        custom = orjson.loads(body)["data"].get("attributes", {}).get("properties", {})
        assert None not in custom.values()


def test_no_field_we_write_can_carry_consent() -> None:
    """Guarantee 7: the keys around the merchant's own field names are a closed set."""
    write = ProfileWrite({"email": ANA, "phone_number": "+34600000001"}, {"balance": 1}, ("x",))
    for body in (profile_body.upsert(write), profile_body.update(write, "K1")):
        assert set(keys_of(orjson.loads(body))) <= {
            *("data", "type", "id", "attributes", "email", "phone_number", "properties"),
            *("balance", "meta", "patch_properties", "unset"),
        }
    assert not CONSENT.search(profile_body.ENVELOPE.head + profile_body.ENVELOPE.tail)


def keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys_of(inner)


# ── quota of a backfill ──────────────────────────────────────────────────────────────────────────


class Permits:
    """The permits that a sink takes beyond those of its claim: (endpoint, of a backfill)."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[tuple[str, bool]] = []
        acquire = rig.limiter.acquire

        async def watched(endpoint: str, save: Any, *, backfill: bool = False) -> None:
            self.taken.append((endpoint, backfill))
            await acquire(endpoint, save, backfill=backfill)

        monkeypatch.setattr(rig.limiter, "acquire", watched)


@pytest.mark.parametrize("backfill", [True, False])
async def test_every_further_request_takes_the_quota_of_its_own_kind(
    sinks: Sinks, monkeypatch: pytest.MonkeyPatch, backfill: bool
) -> None:
    """A backfill must not use the part of the quota that is reserved for live traffic."""
    permits = Permits(sinks.rig, monkeypatch)

    async def send(*writes: ProfileWrite, bulk: bool = False) -> None:
        outs = [Outgoing(make_entry(n, backfill=backfill), w) for n, w in enumerate(writes)]
        async for _ in sinks.sink.deliver(outs, bulk=bulk, permits=1):
            pass

    await send(make_write())
    await send(make_write(sets={}, unsets=("balance",), is_cleanup=True))
    await send(make_write(NEW, pending_move={"email": ANA}))
    await send(make_write(BRUNO, sets={"@first_name": "Bruno"}))
    conflict = {"email": NEW, "phone_number": "+15005550006"}
    await send(make_write(identity={"email": BRUNO, "phone_number": "+15005550006"}))
    await send(make_write(identity=conflict))
    sinks.klaviyo.faults.add(JOBS, "poison", match="p3@", pointer=False, count=50)
    await send(*(make_write(f"p{n}@example.com") for n in range(8)), bulk=True)
    assert {endpoint for endpoint, _ in permits.taken} >= {
        "GET /api/profiles",
        "PATCH /api/profiles/{id}",
        "POST /api/profile-import",
        "POST /api/profile-bulk-import-jobs",
    }
    assert {kind for _, kind in permits.taken} == {backfill}
