"""The API called with what its own document allows and forbids, as operator, viewer and stranger,
over a real socket. No call fails in the connector, and a stranger gets no data."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from connector.config.models import Console
from connector.domain.records import Page, Record
from connector.service import commands
from connector.testing.contracts.actions import ActionHarness, make_request
from connector.web.server import Server

from .conftest import FLOW_SECRET, OPERATOR, VIEWER, ApiHarness

load_all_checks()
EXAMPLES = {"operator": 4, "viewer": 2, "stranger": 1}
"""Calls of each operation, valid and not valid ones, by each role."""
CAMPAIGN = 300
PERSON = "person-of-the-store@example.com"
STRANGER = {"authorization": "Bearer wrong"}
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@dataclass
class Served:
    """An API with data, in a thread with its own event loop, and the calls that were made."""

    url: str = ""
    key: str = ""
    document: dict[str, Any] = field(default_factory=dict)
    commands: int = 0
    session: requests.Session = field(default_factory=requests.Session)
    _started: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._started.wait(20)

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        tokens = (SecretStr("ci:operator:op-token"), SecretStr("board:viewer:view-token"))
        self.harness = ApiHarness(Console(password=["secret"], api_tokens=tokens))
        await self.harness.open()
        await self._fill()
        self.harness.changes.close()  # a stream of changes ends at once
        executing = asyncio.create_task(self.harness.execute_commands())
        server = Server(self.harness.app, "127.0.0.1", 0, grace=1.0, key="server.port")
        await server.start()
        self.url = f"http://127.0.0.1:{server.port}"
        self.document = self.harness.app.openapi()
        self._started.set()
        await self._end.wait()
        executing.cancel()
        await server.stop()

    async def _fill(self) -> None:
        """Something for each operation to find."""
        harness, now = self.harness, self.harness.clock.now()
        await harness.dead_letters(*"abcdef")
        records = [Record("p", "test:p", "Joined", now, b"{}", person="7", email=PERSON)]
        await harness.store.outbox.append([Page(harness.lane, "webhook", records, now)])
        lane = await harness.store.lanes.ensure("acme", "acme", "action")
        await ActionHarness(harness.store, lane, harness.fence).add(make_request(), now=now)
        await harness.store.approvals.request("acme", "removal", "Gold", {"people": 9}, now=now)
        await harness.store.backfills.begin("acme", "seen", {}, now=now)
        [(connection, id)] = await harness.commands.find_people(PERSON)
        self.key = harness.seal.seal(f"person {connection}/{id}")

    def count_commands(self) -> int:
        """Commands that anybody submitted."""
        submit = self.harness.commands.submit("count", {}, by="the test")
        return asyncio.run_coroutine_threadsafe(submit, self._loop).result(10) - 1

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        self.session.close()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(commands, "_POLL_INTERVAL", 0.001)
    made = Served()
    yield made
    made.stop()


def operations(served: Served) -> list[APIOperation]:
    schema = schemathesis.openapi.from_dict(served.document)
    return [found.ok() for found in schema.get_all_operations()]


def call_all(served: Served, headers: dict[str, str], check: Any, examples: int) -> int:
    """Call every operation with `examples` requests; returns how many were made."""
    made = 0

    def call(case: Case) -> None:
        nonlocal made
        if isinstance(case.path_parameters, dict) and "key" in case.path_parameters and made % 2:
            case.path_parameters["key"] = served.key
        response = case.call(served.url, session=served.session, headers=headers, timeout=20)
        check(case, response)
        made += 1

    for operation in operations(served):
        cases = st.one_of([operation.as_strategy(mode) for mode in GenerationMode])
        settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )(given(cases)(call))()
    return made


def conforms(case: Case, response: Any) -> None:
    case.validate_response(response, checks=CHECKS)


def run_as(served: Served, role: str, examples: int) -> int:
    """Call everything as this role; returns how many calls were made."""
    if role == "operator":
        return call_all(served, OPERATOR, conforms, examples)

    def watched(case: Case, response: Any) -> None:
        text = response.text
        assert PERSON not in text
        assert FLOW_SECRET not in text
        if role == "viewer":
            conforms(case, response)
        else:
            assert response.status_code == 401
            assert "acme" not in text

    made = call_all(served, VIEWER if role == "viewer" else STRANGER, watched, examples)
    assert served.count_commands() == 0
    return made


@pytest.mark.parametrize("role", EXAMPLES)
def test_no_call_fails_and_none_shows_more_than_its_role_may_see(served: Served, role: str) -> None:
    assert run_as(served, role, EXAMPLES[role]) >= len(operations(served))


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("role", EXAMPLES)
def test_many_calls(served: Served, role: str) -> None:
    print(run_as(served, role, CAMPAIGN), "calls as", role)
