"""Liveness, readiness, what needs a person, and metrics."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from connector.domain.attention import AttentionItem
from connector.domain.errors import ConfigError, Problem, StoreError
from connector.domain.lanes import DeliveryMode, LaneState
from connector.domain.outcomes import Dead
from connector.domain.records import Page, Record
from connector.ports import Fence, RetryPolicy
from connector.sandbox import Traffic
from connector.web.server import Server
from tests.callers import caller_of

from .conftest import WebHarness


async def dead_letter(harness: WebHarness, email: str = "ana@example.com") -> None:
    """A record of the lane becomes a dead letter."""
    record = Record("k", "test:k", "Balance changed", harness.clock.now(), b"{}", email=email)
    await harness.store.outbox.append(
        [Page(harness.lane, "webhook", [record], harness.clock.now())]
    )
    fence = await harness.store.leases.acquire("store", "one", now=harness.clock.now(), ttl=1_000)
    assert isinstance(fence, Fence)
    claim = await harness.store.outbox.claim(
        harness.lane, fence, now=harness.clock.now(), limit=1, mode=DeliveryMode.BATCH, mapping="v1"
    )
    assert claim
    dead = Dead(claim.entries[0].seq, Problem.KLAVIYO_REFUSED)
    await harness.store.outbox.settle(claim, [dead], now=harness.clock.now(), policy=RetryPolicy(1))


# ── alive and ready ───────────────────────────────────────────────────────────────────────────────


async def test_livez_fails_after_60_seconds_without_a_heartbeat_and_recovers(
    harness: WebHarness, http: httpx.AsyncClient
) -> None:
    harness.clock.move(60.0)
    assert (await http.get("/livez")).status_code == 200
    harness.clock.move(1.0)
    answer = await http.get("/livez")
    assert (answer.status_code, answer.text) == (503, "standstill for 61 s\n")
    harness.health.heartbeat()
    assert (await http.get("/livez")).status_code == 200


async def test_readyz_is_200_only_between_the_start_and_the_stop(
    harness: WebHarness, http: httpx.AsyncClient
) -> None:
    assert (await http.get("/readyz")).status_code == 503
    harness.health.ready = True
    assert (await http.get("/readyz")).status_code == 200
    harness.health.ready = False
    assert (await http.get("/readyz")).status_code == 503


async def test_klaviyo_unreachable_a_blocked_lane_and_dead_letters_leave_it_alive_and_ready(
    harness: WebHarness, http: httpx.AsyncClient
) -> None:
    harness.health.ready = True
    await dead_letter(harness)
    state = LaneState("blocked", Problem.KLAVIYO_UNAVAILABLE, "HTTP 503", harness.clock.now())
    await harness.store.lanes.set_state(harness.lane.id, state)
    assert (await http.get("/readyz")).status_code == 200
    assert (await http.get("/livez")).status_code == 200


async def test_liveness_and_readiness_do_not_query_the_store(
    harness: WebHarness, http: httpx.AsyncClient
) -> None:
    harness.health.ready = True
    harness.database.error = AssertionError("the store was queried")
    assert (await http.get("/readyz")).status_code == 200
    assert (await http.get("/livez")).status_code == 200


# ── what needs a person ───────────────────────────────────────────────────────────────────────────


async def test_healthz_is_ok_while_nothing_needs_attention(
    harness: WebHarness, http: httpx.AsyncClient
) -> None:
    answer = await http.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")


async def test_healthz_lists_each_blocked_lane_and_dead_letters_on_separate_lines(
    harness: WebHarness, http: httpx.AsyncClient
) -> None:
    await dead_letter(harness)
    state = LaneState("blocked", Problem.KLAVIYO_KEY, "HTTP 401", harness.clock.now())
    await harness.store.lanes.set_state(harness.lane.id, state)
    harness.problems = [AttentionItem("disk", Problem.DISK_LOW.meaning, Problem.DISK_LOW)]
    answer = await http.get("/healthz")
    assert answer.status_code == 500
    assert answer.text.splitlines() == [
        "S20 free disk space is below [store] min_free; "
        "what to do: free disk space, or lower `[store] min_free`",
        "K401 acme events → klaviyo is blocked: Klaviyo rejected the key: HTTP 401; "
        "what to do: enter a valid private key in `.env`, under the variable that "
        "`[connections.klaviyo] private_key` names, then `connector reload`",
        "K400 acme events → klaviyo: 1 failed event: Klaviyo rejected the record as invalid; "
        "what to do: read which field Klaviyo names with `connector dead-letters show ID` "
        "(`connector dead-letters list` has the ids), fix it, "
        "retry the cause (`connector dead-letters retry --cause K400`), or discard",
    ]


async def test_a_pause_by_an_operator_needs_no_attention(
    harness: WebHarness, http: httpx.AsyncClient
) -> None:
    paused = LaneState("paused", Problem.PAUSED, "", harness.clock.now())
    await harness.store.lanes.set_state(harness.lane.id, paused)
    assert (await http.get("/healthz")).status_code == 200
    other = LaneState("paused", Problem.KLAVIYO_ACCOUNT, "another account", harness.clock.now())
    await harness.store.lanes.set_state(harness.lane.id, other)
    assert (await http.get("/healthz")).text.startswith("K600 acme")


async def test_healthz_reports_an_unavailable_store(
    harness: WebHarness, http: httpx.AsyncClient
) -> None:
    harness.database.error = StoreError(Problem.STORE_UNAVAILABLE, "OperationalError")
    answer = await http.get("/healthz")
    assert (answer.status_code, answer.text) == (
        500,
        "S10 the store is unavailable (OperationalError); what to do: bring the database back, "
        "free its disk if it is full, or end the program that locks the store's file (`fuser -v "
        "state/connector.db`, or as `[store] url` says, names it); the connector reconnects by "
        "itself\n",
    )


# ── metrics ───────────────────────────────────────────────────────────────────────────────────────


async def test_metrics_parse_and_contain_no_address_or_id(
    harness: WebHarness, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, body = traffic.make_event()
    await http.post("/webhooks/acme", content=body, headers=headers)
    await http.post("/webhooks/acme", content=body)
    await dead_letter(harness, email="secret.person@example.com")
    answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    acme, event = ("connection", "acme"), ("kind", "event")
    assert samples["connector_records_received_total", acme, event, ("via", "webhook")] == 1
    assert samples["connector_outbox_records", acme, event, ("state", "dead")] == 1
    assert samples["connector_dead_letters", ("cause", "K400"), acme] == 1
    assert samples["connector_build_info", ("version", "test")] == 1
    assert "@" not in answer.text
    assert "jericommerce:" not in answer.text


async def test_metrics_are_served_while_the_store_is_unavailable(
    harness: WebHarness, http: httpx.AsyncClient
) -> None:
    harness.database.error = StoreError(Problem.STORE_UNAVAILABLE, "OperationalError")
    answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert "connector_build_info" in answer.text


async def test_with_an_admin_port_metrics_and_webhooks_are_on_separate_ports(
    harness: WebHarness, traffic: Traffic
) -> None:
    headers, body = traffic.make_event()
    statuses = {}
    for name, app in (
        ("public", harness.public),
        ("admin", harness.admin),
        ("shared", harness.shared),
    ):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://c.test") as caller:
            posted = await caller.post("/webhooks/acme", content=body, headers=headers)
            statuses[name] = (
                (await caller.get("/metrics")).status_code,
                posted.status_code,
                *[(await caller.get(path)).status_code for path in ("/livez", "/healthz")],
            )
    assert statuses == {
        "public": (404, 202, 200, 200),
        "admin": (200, 404, 200, 200),
        "shared": (200, 202, 200, 200),
    }


# ── the port ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("which", "key"), [("public", "server.port"), ("admin", "server.admin_port")]
)
async def test_a_port_in_use_is_a_fault_of_its_key(
    harness: WebHarness, which: str, key: str
) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        server = Server(
            getattr(harness, which), "127.0.0.1", busy.getsockname()[1], grace=1, key=key
        )
        with pytest.raises(ConfigError) as found:
            await server.start()
    [fault] = found.value.faults
    assert fault.startswith(f"{key}: 127.0.0.1:")
    assert "taken" in fault


async def test_a_foreign_host_is_a_fault_of_server_host(harness: WebHarness) -> None:
    with pytest.raises(ConfigError) as found:
        await Server(harness.public, "192.0.2.1", 0, grace=1, key="server.port").start()
    [fault] = found.value.faults
    assert fault.startswith("server.host: 192.0.2.1:0 cannot be listened on")


async def test_a_request_in_flight_is_answered_before_the_server_stops(
    harness: WebHarness,
) -> None:
    harness.may_scrape.clear()
    server = Server(harness.shared, "127.0.0.1", 0, grace=5, key="server.port")
    await server.start()
    address = f"http://127.0.0.1:{server.port}"
    async with caller_of(address) as caller:
        asking = asyncio.create_task(caller.get("/metrics"))
        await harness.scraping.wait()
        stopping = asyncio.create_task(server.stop())
        harness.may_scrape.set()
        assert (await asking).status_code == 200
        await stopping
        with pytest.raises(httpx.ConnectError):
            await caller.get("/livez")
