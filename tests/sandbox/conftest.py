"""Sandboxes in process and on loopback sockets, and request bodies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from connector.sandbox import JeriCommerceSandbox, KlaviyoSandbox, Servers, serve

NOW = 1_795_000_000.0  # 2026-11-18T11:06:40Z

HEADERS = {
    "authorization": "Klaviyo-API-Key pk_sandbox",
    "revision": "2026-10-15",
    "content-type": "application/vnd.api+json",
}


class FakeTime:
    """A clock in seconds since 1970 that only changes when a test sets `seconds`."""

    def __init__(self) -> None:
        self.seconds = NOW

    def __call__(self) -> float:
        return self.seconds


def make_event(**changes: Any) -> dict[str, Any]:
    """Attributes of an event in a bulk request."""
    attributes = {
        "properties": {"amount": 5},
        "time": "2026-11-08T10:00:00+00:00",
        "unique_id": "jeri:1",
        "metric": {"data": {"type": "metric", "attributes": {"name": "Balance changed"}}},
    }
    return {**attributes, **changes}


def make_profile(email: str = "ana@example.com", **more: Any) -> dict[str, Any]:
    """A profile inside an event."""
    return {"data": {"type": "profile", "attributes": {"email": email, **more}}}


def make_single(profile: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The body of `POST /api/events`."""
    attributes = {**make_event(**changes), "profile": profile or make_profile()}
    return {"data": {"type": "event", "attributes": attributes}}


def make_group(*events: dict[str, Any], profile: dict[str, Any] | None = None) -> dict[str, Any]:
    """One group of a bulk request."""
    return {
        "type": "event-bulk-create",
        "attributes": {
            "profile": profile or make_profile(),
            "events": {"data": [{"type": "event", "attributes": event} for event in events]},
        },
    }


def make_bulk(*groups: dict[str, Any]) -> dict[str, Any]:
    """The body of `POST /api/event-bulk-create-jobs`."""
    return {
        "data": {
            "type": "event-bulk-create-job",
            "attributes": {"events-bulk-create": {"data": list(groups)}},
        }
    }


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def klaviyo(fake_time: FakeTime) -> KlaviyoSandbox:
    return KlaviyoSandbox(now=fake_time, limits=False)


@pytest.fixture
def jericommerce(fake_time: FakeTime) -> JeriCommerceSandbox:
    return JeriCommerceSandbox(now=fake_time, people=5)


@pytest.fixture
def in_process() -> Callable[[Any], httpx.AsyncClient]:
    """A client for an app, without sockets."""

    def make(app: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://sandbox", headers=HEADERS
        )

    return make


@pytest_asyncio.fixture
async def servers(
    klaviyo: KlaviyoSandbox, jericommerce: JeriCommerceSandbox
) -> AsyncIterator[Servers]:
    running = await serve({"klaviyo": (klaviyo.app, 0), "jericommerce": (jericommerce.app, 0)})
    yield running
    await running.aclose()


@pytest_asyncio.fixture
async def live(servers: Servers) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the Klaviyo sandbox over a real socket."""
    async with httpx.AsyncClient(
        base_url=servers.url("klaviyo"), headers=HEADERS, trust_env=False
    ) as client:
        yield client


def make_import(email: str | None = "ana@example.com", **more: Any) -> dict[str, Any]:
    """A profile in a bulk import; `id` and `meta` are outside the attributes."""
    outside = {name: more.pop(name) for name in ("id", "meta") if name in more}
    attributes = {"email": email, **more} if email is not None else more
    return {"type": "profile", **outside, "attributes": attributes}


def make_job(*profiles: dict[str, Any], lists: tuple[str, ...] = ()) -> dict[str, Any]:
    """The body of `POST /api/profile-bulk-import-jobs`."""
    data: dict[str, Any] = {
        "type": "profile-bulk-import-job",
        "attributes": {"profiles": {"data": list(profiles)}},
    }
    if lists:
        data["relationships"] = {"lists": {"data": [{"type": "list", "id": id} for id in lists]}}
    return {"data": data}
