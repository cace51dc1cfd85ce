"""A Klaviyo account with one of everything, on a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from connector.sandbox import KlaviyoSandbox, serve
from connector.sandbox.klaviyo.oauth import Install

from .conftest import (
    HEADERS,
    NOW,
    FakeTime,
    make_bulk,
    make_event,
    make_group,
    make_import,
    make_job,
    make_profile,
)
from .klaviyo_case import Case


class Account:
    """A sandbox on a socket with one of everything; `ids` names what it has."""

    def __init__(self, sandbox: KlaviyoSandbox, client: httpx.AsyncClient, time: FakeTime) -> None:
        self.sandbox = sandbox
        self.client = client
        self.time = time
        self.ids: dict[str, str] = {}

    async def fill(self) -> None:
        sandbox = self.sandbox
        more = {"first_name": "Ana", "external_id": "ext-ana", "location": {"city": "Madrid"}}
        await self.client.post(
            "/api/profile-import", json={"data": make_import("ana@example.com", **more)}
        )
        sandbox.make_people("eva@example.com")
        events = [
            make_event(unique_id=str(n), properties={"sku": "A"}, value=1, value_currency="EUR")
            for n in range(2)
        ]
        group = make_group(*events, profile=make_profile("ana@example.com"))
        await self.client.post("/api/event-bulk-create-jobs", json=make_bulk(group))
        club = sandbox.make_list("Club", "ana@example.com")
        gold = sandbox.make_segment("Gold", "ana@example.com")
        sandbox.jobs.fail_matching("bad", "invalid", "Invalid input.")
        people = [make_import("ana@example.com"), make_import("bad@example.com")]
        made = await self.client.post(
            "/api/profile-bulk-import-jobs", json=make_job(*people, lists=(club,))
        )
        job = made.json()["data"]["id"]
        sandbox.jobs.run(job)
        sandbox.flows.add("Welcome", "live", "Added to List", club)
        sandbox.flows.add("Now gold", "draft", "Added to List", gold)
        sandbox.flows.add("On points", "live", "Metric", "Balance changed")
        profile = sandbox.profile_id("ana@example.com")
        assert profile is not None
        self.ids = {"list": club, "segment": gold, "job": job, "profile": profile}
        sandbox.oauth.install = Install((), "refresh")
        self.time.seconds += 120  # the quota that was used here is back

    async def ask(self, case: Case) -> httpx.Response:
        method = case.operation.split(" ", 1)[0]
        path, _, query = case.path.partition("?")
        if case.fault is not None:
            self.sandbox.faults.parse(case.fault)
        response = None
        for _ in range(case.calls):
            response = await self.client.request(
                method,
                path.format(**self.ids),
                params=query.format(**self.ids) if query else None,
                json=case.body(self.ids) if case.body else None,
                headers=case.headers,
            )
        assert response is not None
        return response


@asynccontextmanager
async def filled_account() -> AsyncIterator[Account]:
    """Times in it have microseconds, so that they show."""
    time = FakeTime()
    time.seconds = NOW + 0.25
    sandbox = KlaviyoSandbox(now=time)
    servers = await serve({"klaviyo": (sandbox.app, 0)})
    async with httpx.AsyncClient(
        base_url=servers.url("klaviyo"), headers=HEADERS, trust_env=False
    ) as client:
        account = Account(sandbox, client, time)
        await account.fill()
        yield account
    await servers.aclose()
