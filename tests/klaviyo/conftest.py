"""Messages and entries, and a sink over the sandbox without sockets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from connector.domain.lanes import DeliveryMode, Millis, QuotaUsage
from connector.domain.messages import EventMessage
from connector.domain.outcomes import Delivery, Outcome
from connector.domain.records import Entry
from connector.klaviyo.api import KlaviyoApi, headers, observe_headers, private_key
from connector.klaviyo.limits import BULK_EVENTS, CREATE_EVENT, GET_ACCOUNTS, GET_METRICS
from connector.klaviyo.sink.events import EventSink
from connector.net.http import Http
from connector.net.rate_limit import Limit, RateLimiter
from connector.ports import Outgoing
from connector.sandbox import KlaviyoSandbox
from connector.testing.fakes.clock import FakeClock

Out = Outgoing[EventMessage]
WIDE = Limit(100_000, 1_000_000)


class AutoAdvancingClock(FakeClock):
    """Whoever sleeps wakes at once, and it is later."""

    async def sleep(self, seconds: float) -> None:
        self.move(seconds)


def make_message(**changes: Any) -> EventMessage:
    values: dict[str, Any] = {
        "metric": "Balance changed",
        "unique_id": "jericommerce:1",
        "occurred_at": FakeClock().now(),
        "identity": {"email": "ana@example.com"},
        "properties": {"amount": 5},
    }
    return EventMessage(**{**values, **changes})


def make_entry(seq: int, **changes: Any) -> Entry:
    values: dict[str, Any] = {
        "unique_id": f"jericommerce:{seq}",
        "name": "Balance changed",
        "occurred_at": FakeClock().now(),
        "received_at": FakeClock().now(),
        "email": "ana@example.com",
        "person": None,
        "data": b"{}",
        "attempts": 1,
        "mode": DeliveryMode.BATCH,
        "mapping": None,
        "backfill": False,
    }
    return Entry(seq, **{**values, **changes})


def make_out(seq: int, *, backfill: bool = False, **changes: Any) -> Out:
    message = {
        "unique_id": f"jericommerce:{seq}",
        "identity": {"email": f"p{seq}@example.com"},
        **changes,
    }
    return Outgoing(make_entry(seq, backfill=backfill), make_message(**message))


def make_outs(count: int, poison: Sequence[int] = ()) -> list[Out]:
    """Events 0 to count; the poisoned ones carry a word for the sandbox's faults to find."""
    return [
        make_out(seq, properties={"note": f"poison-{seq}."} if seq in poison else {"amount": seq})
        for seq in range(count)
    ]


class Rig:
    """An EventSink over the real API and HTTP against a sandbox; `deliver` collects."""

    def __init__(
        self,
        sandbox: KlaviyoSandbox | None = None,
        *,
        base_url: str = "http://127.0.0.1",
        transport: httpx.AsyncBaseTransport | None = None,
        limits: dict[str, Limit] | None = None,
        late_after: float | None = None,
        key: str = "pk_sandbox",
        timeout: float = 30.0,
        clock: FakeClock | None = None,
    ) -> None:
        self.clock = clock or AutoAdvancingClock()
        self.remembered: list[QuotaUsage] = []
        self.limiter = RateLimiter(
            "acct",
            {
                CREATE_EVENT: WIDE,
                BULK_EVENTS: WIDE,
                GET_ACCOUNTS: WIDE,
                GET_METRICS: WIDE,
                **(limits or {}),
            },
            clock=self.clock,
            share=1.0,
        )
        if sandbox is not None:
            transport = httpx.ASGITransport(sandbox.app)
        self.http = Http(
            base_url,
            vendor="klaviyo",
            clock=self.clock,
            credential=private_key(SecretStr(key)),
            headers=headers("2026-10-15"),
            on_call=observe_headers(self.limiter),
            transport=transport,
            timeout=timeout,
        )
        self.api = KlaviyoApi(self.http, self.limiter, self.clock, self._remember)
        self.sink = EventSink(self.api, self.clock, late_after=late_after)
        self.deliveries: list[Delivery] = []

    async def _remember(self, spend: Sequence[QuotaUsage]) -> None:
        self.remembered.extend(spend)

    async def deliver(
        self, outs: Sequence[Out], *, bulk: bool = True, permits: int = 1
    ) -> dict[int, Outcome]:
        """The outcome of every entry; fails where an entry has none or two."""
        self.deliveries = [d async for d in self.sink.deliver(outs, bulk=bulk, permits=permits)]
        found = [o for delivery in self.deliveries for o in delivery.outcomes]
        assert sorted(o.seq for o in found) == sorted(out.entry.seq for out in outs)
        return {o.seq: o for o in found}

    @property
    def sent(self) -> int:
        """Requests of the last delivery."""
        return sum(len(delivery.requests) for delivery in self.deliveries)

    @property
    def stops(self) -> list[str]:
        return [delivery.stop.scope for delivery in self.deliveries if delivery.stop]


@pytest.fixture
def klaviyo() -> KlaviyoSandbox:
    clock = FakeClock()
    return KlaviyoSandbox(now=lambda: clock.now() / 1000, limits=False)


@pytest.fixture
async def rig(klaviyo: KlaviyoSandbox) -> Any:
    made = Rig(klaviyo)
    yield made
    await made.api.aclose()


def scripted(answer: Callable[[httpx.Request], httpx.Response]) -> Rig:
    """A rig whose remote API is a function."""
    return Rig(transport=httpx.MockTransport(answer))


def now() -> Millis:
    return FakeClock().now()
