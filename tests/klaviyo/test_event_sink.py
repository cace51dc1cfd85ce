"""The sink over the real HTTP against the sandbox: every entry ends in exactly one outcome."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.domain.errors import AmbiguousError, DeliveryError, Problem, RetryLater
from connector.domain.outcomes import Accepted, Ambiguous, Dead, Delivery, Retry, Unsent
from connector.domain.settlement import REPEAT_HARMLESS, outcome_for
from connector.klaviyo.api import JSON_API
from connector.klaviyo.limits import BULK_EVENTS, CREATE_EVENT, LIMITS
from connector.klaviyo.sink.event_body import ENVELOPE, item
from connector.net.answers import error_for
from connector.sandbox import KlaviyoSandbox, serve
from connector.testing.fakes.clock import run_pending

from .conftest import AutoAdvancingClock, Out, Rig, make_message, make_out, make_outs, now, scripted

BULK = "event-bulk-create-jobs"
POINTER = "/data/attributes/events-bulk-create/data/"


def kinds(outcomes: dict[int, Any]) -> Counter[str]:
    return Counter(type(outcome).__name__ for outcome in outcomes.values())


def dead(outcomes: dict[int, Any]) -> set[int]:
    return {seq for seq, outcome in outcomes.items() if isinstance(outcome, Dead)}


def poison(klaviyo: KlaviyoSandbox, *seqs: int, pointer: bool) -> None:
    for seq in seqs:
        klaviyo.faults.add("*", "poison", match=f"poison-{seq}.", pointer=pointer)


# ── what works ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("bulk", "requests"), [(False, 7), (True, 1)])
async def test_events_are_accepted(
    klaviyo: KlaviyoSandbox, rig: Rig, bulk: bool, requests: int
) -> None:
    outcomes = await rig.deliver(make_outs(7), bulk=bulk)
    assert kinds(outcomes) == {"Accepted": 7}
    assert rig.sent == requests
    assert klaviyo.unique_ids() == {f"jericommerce:{seq}": 1 for seq in range(7)}
    assert klaviyo.state()["violations"] == {}
    noted = {r.id: r for delivery in rig.deliveries for r in delivery.requests}
    for outcome in outcomes.values():
        assert isinstance(outcome, Accepted)
        request = noted[outcome.request]
        assert (request.endpoint, request.status) == (
            BULK_EVENTS if bulk else CREATE_EVENT,
            202,
        )


async def test_an_empty_batch_makes_no_request(klaviyo: KlaviyoSandbox, rig: Rig) -> None:
    assert await rig.deliver([], bulk=True) == {}
    assert await rig.deliver([], bulk=False) == {}
    assert klaviyo.state()["requests"] == {}


async def test_one_request_carries_a_thousand_events_and_the_rest_wait(
    klaviyo: KlaviyoSandbox, rig: Rig
) -> None:
    outcomes = await rig.deliver(make_outs(1_001))
    assert kinds(outcomes) == {"Accepted": 1_000, "Unsent": 1}
    assert isinstance(outcomes[1_000], Unsent)
    outcomes = await rig.deliver(make_outs(2_100)[1_000:], permits=2)
    assert kinds(outcomes) == {"Accepted": 1_100}
    assert klaviyo.state()["violations"] == {}


# ── limits, before a request is spent ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bulk", [False, True])
async def test_an_event_klaviyo_would_reject_is_dead_lettered_without_a_request(
    klaviyo: KlaviyoSandbox, rig: Rig, bulk: bool
) -> None:
    outs = [
        make_out(0),
        make_out(1, metric=""),
        make_out(2, properties={"s": "x" * 100_001}),
        make_out(3, properties={"odd": {1, 2}}),
        make_out(4, properties={"big": 2**70}),
        make_out(5, properties={"torn": "\ud800"}),
        make_out(6, occurred_at=253_402_344_000_000),
        make_out(7),
    ]
    outcomes = await rig.deliver(outs, bulk=bulk)
    assert {s: o.problem for s, o in outcomes.items() if isinstance(o, Dead)} == {
        1: Problem.METRIC_NAME,
        2: Problem.STRING_TOO_LONG,
        3: Problem.MAPPING_FAILED,
        4: Problem.MAPPING_FAILED,
        5: Problem.MAPPING_FAILED,
        6: Problem.TIME_OUT_OF_RANGE,
    }
    assert kinds(outcomes)["Accepted"] == 2
    assert rig.sent == (1 if bulk else 2)
    assert klaviyo.state()["violations"] == {}


def heavy(seq: int, size: int) -> Out:
    """An event whose group takes `size` bytes."""
    changes = {"unique_id": f"jericommerce:{seq}", "identity": {"email": f"p{seq}@example.com"}}
    names = [f"p{n:02d}" for n in range(size // 99_000 + 2)]
    max_bytes = size - len(
        item(make_message(properties=dict.fromkeys(names, ""), **changes), backfill=False)
    )
    filled = {}
    for name in names:
        filled[name] = "x" * min(99_000, max_bytes)
        max_bytes -= len(filled[name])
    return make_out(seq, properties=filled)


async def test_one_request_carries_five_megabytes_and_the_rest_wait(
    klaviyo: KlaviyoSandbox, rig: Rig
) -> None:
    outcomes = await rig.deliver([heavy(seq, 1_000_000) for seq in range(7)])
    assert kinds(outcomes) == {"Accepted": 4, "Unsent": 3}
    assert klaviyo.state()["violations"] == {}


async def test_an_event_that_fills_a_request_to_its_last_byte_is_sent(
    klaviyo: KlaviyoSandbox, rig: Rig
) -> None:
    """Were it left unsent, it would be left unsent for ever, and all behind it."""
    outcomes = await rig.deliver([heavy(0, ENVELOPE.max_bytes), make_out(1)])
    assert kinds(outcomes) == {"Accepted": 1, "Unsent": 1}
    assert klaviyo.recorded("jericommerce:0") == 1
    assert klaviyo.state()["violations"] == {}
    first, second = (
        heavy(2, ENVELOPE.max_bytes // 2),
        heavy(3, ENVELOPE.max_bytes - ENVELOPE.max_bytes // 2 - 1),
    )
    assert kinds(await rig.deliver([first, second])) == {"Accepted": 2}
    first, second = (
        heavy(4, ENVELOPE.max_bytes // 2),
        heavy(5, ENVELOPE.max_bytes - ENVELOPE.max_bytes // 2),
    )
    assert kinds(await rig.deliver([first, second])) == {"Accepted": 1, "Unsent": 1}


async def test_duplicates_in_one_batch_are_sent_one_after_the_other(
    klaviyo: KlaviyoSandbox, rig: Rig
) -> None:
    """In bulk Klaviyo would refuse the whole request."""
    twin = {"unique_id": "jericommerce:same", "identity": {"email": "ana@example.com"}}
    outs = [make_out(0, **twin), make_out(1), make_out(2, **twin), make_out(3, **twin)]
    outcomes = await rig.deliver(outs)
    assert kinds(outcomes) == {"Accepted": 2, "Ambiguous": 2}
    assert isinstance(outcomes[0], Accepted)
    assert klaviyo.state()["violations"] == {}


async def test_one_id_for_two_people_or_two_metrics_is_not_a_duplicate(
    klaviyo: KlaviyoSandbox, rig: Rig
) -> None:
    same = {"unique_id": "jericommerce:same"}
    outs = [
        make_out(0, **same),
        make_out(1, **same),
        make_out(2, metric="Other", identity={"email": "p0@example.com"}, **same),
        make_out(3, identity={"phone_number": "+34600000000"}, **same),
    ]
    assert kinds(await rig.deliver(outs)) == {"Accepted": 4}
    assert klaviyo.state()["violations"] == {}


# ── poison ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("errors", ["all", "first"])
async def test_records_named_by_an_error_pointer_are_removed_and_the_rest_is_sent_at_once(
    errors: Any,
) -> None:
    klaviyo = KlaviyoSandbox(now=lambda: now() / 1000, limits=False, bulk_errors=errors)
    rig = Rig(klaviyo)
    outs = make_outs(100)
    for seq in (3, 50, 99):
        outs[seq] = make_out(seq, identity={"email": f"no address {seq}"})
    outcomes = await rig.deliver(outs)
    assert dead(outcomes) == {3, 50, 99}
    assert kinds(outcomes) == {"Accepted": 97, "Dead": 3}
    assert rig.sent == (2 if errors == "all" else 4)
    # The first request had its permit; every other asked for one and it was saved.
    assert sum(spend.count for spend in rig.remembered) == rig.sent - 1
    for seq in (3, 50, 99):
        found = outcomes[seq]
        assert isinstance(found, Dead)
        assert found.problem is Problem.KLAVIYO_REFUSED
        assert "/attributes/profile/data/attributes/email" in found.detail
        assert "no address" not in found.detail
    await rig.api.aclose()


async def test_events_that_a_refused_request_has_recorded_go_singly(
    klaviyo: KlaviyoSandbox, rig: Rig
) -> None:
    klaviyo.faults.add(BULK, "status", status=503, applied=True, count=1)
    first = await rig.deliver(make_outs(5), bulk=True)
    assert kinds(first) == {"Retry": 5}
    again = await rig.deliver(make_outs(5), bulk=True)
    assert kinds(again) == {"Ambiguous": 5}
    singly = await rig.deliver(make_outs(5), bulk=False)
    assert kinds(singly) == {"Accepted": 5}
    assert klaviyo.unique_ids() == {f"jericommerce:{seq}": 1 for seq in range(5)}


@pytest.mark.parametrize(
    ("count", "bad"),
    [
        (1, [0]),
        (2, [0, 1]),
        (100, [0]),
        (100, [99]),
        (256, [7, 8, 200]),
        (1000, [1, 250, 251, 640, 999]),
        (16, list(range(16))),
    ],
)
async def test_without_a_pointer_the_batch_is_bisected(
    klaviyo: KlaviyoSandbox, rig: Rig, count: int, bad: list[int]
) -> None:
    poison(klaviyo, *bad, pointer=False)
    outcomes = await rig.deliver(make_outs(count, bad))
    assert dead(outcomes) == set(bad)
    assert kinds(outcomes)["Accepted"] == count - len(bad)
    assert rig.sent <= 1 + 2 * math.ceil(math.log2(max(2, count))) * len(bad)
    assert {f"jericommerce:{seq}" for seq in bad}.isdisjoint(klaviyo.unique_ids())
    assert all(times == 1 for times in klaviyo.unique_ids().values())


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 120), data=st.data(), pointer=st.booleans())
def test_exactly_the_poisoned_records_are_dead_lettered(
    count: int, data: st.DataObject, pointer: bool
) -> None:
    bad = data.draw(st.sets(st.integers(0, count - 1), max_size=4))

    async def run() -> None:
        klaviyo = KlaviyoSandbox(now=lambda: now() / 1000, limits=False)
        poison(klaviyo, *bad, pointer=pointer)
        rig = Rig(klaviyo)
        outcomes = await rig.deliver(make_outs(count, list(bad)))
        assert dead(outcomes) == bad
        assert kinds(outcomes)["Accepted"] == count - len(bad)
        assert rig.sent <= 1 + 2 * math.ceil(math.log2(max(2, count))) * len(bad)
        await rig.api.aclose()

    asyncio.run(run())


async def test_a_poisoned_single_record_is_dead_lettered_alone(
    klaviyo: KlaviyoSandbox, rig: Rig
) -> None:
    poison(klaviyo, 2, pointer=True)
    outcomes = await rig.deliver(make_outs(5, [2]), bulk=False)
    assert dead(outcomes) == {2}
    found = outcomes[2]
    assert isinstance(found, Dead)
    assert found.detail == "invalid: Invalid input. at /data/attributes/properties"
    assert found.request in {r.id for d in rig.deliveries for r in d.requests}


async def test_a_request_that_is_too_large_is_split() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(413 if len(request.content) > 2_000 else 202)

    rig = scripted(answer)
    assert kinds(await rig.deliver(make_outs(40))) == {"Accepted": 40}
    outcomes = await rig.deliver([*make_outs(3), make_out(3, properties={"s": "x" * 3_000})])
    assert dead(outcomes) == {3}
    assert outcomes[3].problem is Problem.KLAVIYO_TOO_LARGE  # type: ignore[union-attr]
    await rig.api.aclose()


@pytest.mark.parametrize(
    "pointer",
    [
        POINTER + "99/attributes",
        POINTER + "²/attributes",
        POINTER + "-1",
        POINTER,
        "/data",
        "",
        "/data/attributes",
    ],
)
async def test_a_pointer_to_no_record_names_no_record(pointer: str) -> None:
    sent: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(len(request.content))
        if b"poison-2." not in request.content:
            return httpx.Response(202)
        error = {"code": "invalid", "title": "Invalid.", "source": {"pointer": pointer}}
        return httpx.Response(400, json={"errors": [error]})

    rig = scripted(answer)
    outcomes = await rig.deliver(make_outs(4, [2]))
    assert dead(outcomes) == {2}
    assert kinds(outcomes)["Accepted"] == 3
    await rig.api.aclose()


async def test_a_pointer_may_name_the_whole_group(rig: Rig) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if b"poison-2." not in request.content:
            return httpx.Response(202)
        error = {"code": "invalid", "title": "Invalid.", "source": {"pointer": POINTER + "2"}}
        return httpx.Response(400, json={"errors": [error]})

    other = scripted(answer)
    assert dead(await other.deliver(make_outs(4, [2]))) == {2}
    assert other.sent == 2
    await other.api.aclose()


# ── the answers ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize("status", [401, 403, 404, 409, 410, 429, 500, 502, 503])
async def test_a_response_maps_to_its_outcome(
    klaviyo: KlaviyoSandbox, rig: Rig, bulk: bool, status: int
) -> None:
    """What a status means is tested in tests/net/test_answers.py, what an error means for a record
    in tests/domain/test_settlement.py."""
    error = error_for("klaviyo", status, {"content-type": JSON_API}, b"")
    assert error
    expected, stop = outcome_for(0, error, REPEAT_HARMLESS)
    klaviyo.faults.add("*", "status", status=status)
    outcomes = await rig.deliver(make_outs(3), bulk=bulk)
    assert kinds(outcomes) == {type(expected).__name__: 3}
    assert set(rig.stops) == ({stop.scope} if stop else set())
    for outcome in outcomes.values():
        assert getattr(outcome, "problem", error.problem) is error.problem
    for delivery in rig.deliveries:
        assert delivery.stop is None or delivery.stop.problem is error.problem
        assert all(request.problem is error.problem for request in delivery.requests)


async def test_a_429_pauses_the_rate_limiter_for_retry_after(
    klaviyo: KlaviyoSandbox, rig: Rig
) -> None:
    klaviyo.faults.add("*", "status", status=429, retry_after=30, count=1)
    outcomes = await rig.deliver(make_outs(3))
    assert all(isinstance(o, Retry) and o.after == 30 for o in outcomes.values())
    assert rig.limiter.reserve(BULK_EVENTS, 1).wait == pytest.approx(30)
    assert rig.limiter.reserve(CREATE_EVENT, 1).count == 1


async def test_a_challenge_pauses_the_rate_limiter(klaviyo: KlaviyoSandbox, rig: Rig) -> None:
    klaviyo.faults.add("*", "html403")
    [outcome] = (await rig.deliver(make_outs(1), bulk=False)).values()
    assert isinstance(outcome, Retry)
    assert outcome.problem is Problem.CHALLENGED
    assert rig.limiter.reserve(CREATE_EVENT, 1).wait > 0


async def test_klaviyos_own_limits_are_never_reached(klaviyo: KlaviyoSandbox) -> None:
    """A bisect asks for its permits: with the true limits on both sides there is no 429."""
    clock = AutoAdvancingClock()
    strict = KlaviyoSandbox(now=lambda: clock.now() / 1000)
    rig = Rig(strict, limits=LIMITS, clock=clock)
    bad = list(range(0, 64, 4))
    poison(strict, *bad, pointer=False)
    rig.limiter.reserve(BULK_EVENTS, 1)
    assert dead(await rig.deliver(make_outs(64, bad))) == set(bad)
    assert rig.sent > LIMITS[BULK_EVENTS].burst
    assert strict.state()["throttled"] == 0
    await rig.api.aclose()


# ── after a stop nothing more is sent ────────────────────────────────────────────────────────────


def failing_after(good: int, status: int, **headers: str) -> tuple[list[int], Any]:
    """Refuses as invalid what holds a poison, without naming it; from the nth request on says
    `status` to everything."""
    asked: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(len(orjson.loads(request.content)["data"]))
        if len(asked) > good:
            error = {"code": "x", "title": "No."}
            return httpx.Response(
                status,
                json={"errors": [error]},
                headers={"content-type": "application/vnd.api+json", **headers},
            )
        if b"poison" in request.content:
            return httpx.Response(400, json={"errors": [{"code": "invalid", "title": "No."}]})
        return httpx.Response(202)

    return asked, answer


@pytest.mark.parametrize("good", range(1, 8))
@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_bisect_stops_after_a_blocking_response(good: int, status: int) -> None:
    asked, answer = failing_after(good, status)
    rig = scripted(answer)
    outcomes = await rig.deliver(make_outs(16, [5]))
    assert len(asked) == good + 1
    assert kinds(outcomes)["Unsent"] >= 1
    assert len(rig.stops) == 1
    await rig.api.aclose()


@pytest.mark.parametrize("good", [1, 2, 3])
async def test_a_bisect_stops_after_a_retry_after(good: int) -> None:
    asked, answer = failing_after(good, 429, **{"retry-after": "600"})
    rig = scripted(answer)
    began = rig.clock.monotonic()
    outcomes = await rig.deliver(make_outs(16, [5]))
    assert len(asked) == good + 1
    assert kinds(outcomes)["Retry"] >= 1
    # No claim was held during the ten minutes.
    assert rig.clock.monotonic() - began < 60
    await rig.api.aclose()


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
async def test_after_a_blocking_response_other_permits_are_not_used(status: int) -> None:
    asked, answer = failing_after(1, status)
    rig = scripted(answer)
    outcomes = await rig.deliver(make_outs(3_500), permits=4)
    assert len(asked) == 2
    assert kinds(outcomes)["Accepted"] == 1_000
    assert kinds(outcomes)["Unsent"] >= 1_500
    await rig.api.aclose()


@pytest.mark.parametrize("bulk", [True, False])
@pytest.mark.parametrize("depth", [12, 300, 900])
async def test_too_deep_properties_are_named_however_deep(
    klaviyo: KlaviyoSandbox, bulk: bool, depth: int
) -> None:
    """Deeper than the encoder can go, too."""
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    rig = Rig(klaviyo)
    outs = [make_out(1, properties={"deep": value}), make_out(2)]
    found = await rig.deliver(outs, bulk=bulk)
    dead = found[1]
    assert isinstance(dead, Dead)
    assert dead.problem is Problem.NESTED_TOO_DEEP
    assert isinstance(found[2], Accepted)


async def test_an_ambiguous_half_does_not_block_the_other_half() -> None:
    calls = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        return httpx.Response({1: 400, 2: 500}.get(calls, 202))

    rig = scripted(answer)
    assert kinds(await rig.deliver(make_outs(10))) == {"Ambiguous": 5, "Accepted": 5}
    await rig.api.aclose()


# ── any script of faults ─────────────────────────────────────────────────────────────────────────

STEP = st.sampled_from(
    [
        "ok",
        "ok",
        "400",
        "400 named",
        "401",
        "403",
        "html",
        "404",
        "409",
        "413",
        "429",
        "500",
        "503",
        "reset",
        "refused",
        "timeout",
        "garbage",
    ]
)


def play(script: Iterator[str]) -> Any:
    def answer(request: httpx.Request) -> httpx.Response:
        step = next(script, "ok")
        match step:
            case "reset":
                raise httpx.ReadError("reset")
            case "refused":
                raise httpx.ConnectError("refused")
            case "timeout":
                raise httpx.ReadTimeout("late")
            case "garbage":
                raise httpx.RemoteProtocolError("garbage")
            case "html":
                return httpx.Response(403, text="<html>", headers={"content-type": "text/html"})
            case "ok":
                return httpx.Response(202)
            case "400 named":
                pointer = POINTER + "0/attributes"
                error = {"code": "invalid", "title": "No.", "source": {"pointer": pointer}}
                return httpx.Response(400, json={"errors": [error]})
        return httpx.Response(int(step), json={"errors": []}, headers={"retry-after": "3"})

    return answer


@settings(deadline=None, max_examples=150)
@given(
    script=st.lists(STEP, max_size=40),
    count=st.integers(0, 40),
    bad=st.sets(st.integers(0, 39), max_size=4),
    bulk=st.booleans(),
    permits=st.integers(1, 3),
)
def test_every_entry_has_exactly_one_outcome(
    script: list[str], count: int, bad: set[int], bulk: bool, permits: int
) -> None:
    async def run() -> None:
        steps = iter(script)
        rig = scripted(play(steps))
        outs = make_outs(count)
        for seq in bad & set(range(count)):
            outs[seq] = make_out(seq, metric="")
        await rig.deliver(outs, bulk=bulk, permits=permits)
        stopped = [n for n, d in enumerate(rig.deliveries) if d.stop]
        if bulk and stopped:
            assert not any(d.requests for d in rig.deliveries[stopped[0] + 1 :])
        await rig.api.aclose()

    asyncio.run(run())


# ── real sockets ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def live(klaviyo: KlaviyoSandbox) -> Any:
    servers = await serve({"klaviyo": (klaviyo.app, 0)})
    rig = Rig(base_url=servers.url("klaviyo"), timeout=5.0)
    yield rig
    await rig.api.aclose()
    await servers.aclose()


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize(
    ("kind", "applied"), [("reset_after", True), ("reset_before", False), ("truncate", True)]
)
async def test_a_lost_response_is_ambiguous_and_a_single_resend_records_once(
    klaviyo: KlaviyoSandbox, live: Rig, bulk: bool, kind: Any, applied: bool
) -> None:
    klaviyo.faults.add("*", kind, count=1)
    [outcome] = (await live.deliver([make_out(1)], bulk=bulk)).values()
    assert isinstance(outcome, Ambiguous)
    assert klaviyo.recorded("jericommerce:1") == int(applied)
    [outcome] = (await live.deliver([make_out(1)], bulk=False)).values()
    assert isinstance(outcome, Accepted)
    assert klaviyo.recorded("jericommerce:1") == 1
    assert klaviyo.state()["duplicates"] == int(applied)


async def test_an_unreachable_server_is_a_retry() -> None:
    servers = await serve({"klaviyo": (KlaviyoSandbox().app, 0)})
    rig = Rig(base_url=servers.url("klaviyo"))
    await servers.aclose()
    outcomes = await rig.deliver(make_outs(3))
    assert kinds(outcomes) == {"Retry": 3}
    await rig.api.aclose()


async def test_a_cancelled_delivery_leaves_no_request_running() -> None:
    """A stopped lane leaves nothing running unsettled."""
    never = asyncio.Event()
    begun = 0

    async def stall(_: httpx.Request) -> httpx.Response:
        nonlocal begun
        begun += 1
        await never.wait()
        return httpx.Response(202)

    rig = Rig(transport=httpx.MockTransport(stall))
    others = asyncio.all_tasks()

    async def consume() -> list[Delivery]:
        return [d async for d in rig.sink.deliver(make_outs(5), bulk=False, permits=5)]

    task = asyncio.create_task(consume())
    await run_pending()
    assert begun == 5
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await run_pending()
    assert asyncio.all_tasks() == others
    await rig.api.aclose()


# ── reads ────────────────────────────────────────────────────────────────────────────────────────


async def test_the_key_is_checked(klaviyo: KlaviyoSandbox, rig: Rig) -> None:
    [check] = await rig.sink.check()
    assert (check.level, "SANDBX" in check.detail) == ("ok", True)
    [check] = await Rig(klaviyo, key="pk_wrong").sink.check()
    assert (check.level, check.problem) == ("fault", Problem.KLAVIYO_KEY)
    klaviyo.faults.add("accounts", "status", status=403)
    [check] = await rig.sink.check()
    assert (check.level, check.problem) == ("warning", Problem.KLAVIYO_SCOPE)


@pytest.mark.parametrize(
    "body", [{}, [], {"data": []}, {"data": None}, {"data": [7]}, {"data": [{"id": "x"}]}]
)
async def test_an_account_of_unexpected_shape_is_a_fault_not_a_crash(body: Any) -> None:
    rig = scripted(lambda _: httpx.Response(200, json=body))
    [check] = await rig.sink.check()
    assert (check.level, check.problem) == ("fault", Problem.ANSWER_UNREADABLE)
    await rig.api.aclose()


@pytest.mark.parametrize(
    "body", [{}, {"data": [{}]}, {"data": [], "links": {"next": "https://elsewhere.example"}}]
)
async def test_metrics_of_unexpected_shape_are_unreadable(body: Any) -> None:
    rig = scripted(lambda _: httpx.Response(200, json=body))
    with pytest.raises(AmbiguousError):
        await rig.api.metric_names()
    await rig.api.aclose()


async def test_metrics_are_read_page_by_page(klaviyo: KlaviyoSandbox, rig: Rig) -> None:
    names = [f"Metric {n:03d}" for n in range(201)]
    await rig.deliver([make_out(n, metric=name) for n, name in enumerate(names)])
    assert sorted(name for name, _ in await rig.api.metric_names()) == names


async def test_a_throttled_read_pauses_the_rate_limiter(klaviyo: KlaviyoSandbox, rig: Rig) -> None:
    klaviyo.faults.add("accounts", "status", status=429, retry_after=30, count=1)
    began = rig.clock.monotonic()
    with pytest.raises(RetryLater):
        await rig.api.account()
    await rig.api.account()
    assert rig.clock.monotonic() - began >= 30


async def test_the_rate_limiter_reads_the_headers_of_every_response() -> None:
    headers = {"ratelimit-remaining": "0", "ratelimit-reset": "5"}
    rig = scripted(lambda _: httpx.Response(202, headers=headers))
    await rig.deliver([make_out(1)], bulk=False)
    assert rig.limiter.reserve(CREATE_EVENT, 1).wait == pytest.approx(5)
    await rig.api.aclose()


async def test_no_outcome_contains_the_key_or_an_address(klaviyo: KlaviyoSandbox, rig: Rig) -> None:
    klaviyo.faults.add("*", "poison", match="p1@", pointer=True)
    await rig.deliver(make_outs(3))
    text = repr(rig.deliveries)
    assert "@example.com" not in text
    assert "pk_sandbox" not in text
    with pytest.raises(DeliveryError) as caught:
        await Rig(klaviyo, key="pk_wrong_secret").api.account()
    assert "pk_wrong_secret" not in f"{caught.value!r}"
