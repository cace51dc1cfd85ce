"""The shop of the demo that a visitor connects in the console. It has a Klaviyo account of its own,
its platform is a sandbox of Yotpo, and its events go to the webhook address that is entered on the
shop's page."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from connector.sandbox import KlaviyoSandbox, Traffic, Webhook
from connector.sandbox.yotpo.people import Customer
from connector.sandbox.yotpo.server import YotpoSandbox

SOURCE = "yotpo"
GUID = "shop-guid"
API_KEY = "shop_api_key"
KLAVIYO_KEY = "pk_shop"
_CUSTOMERS = (
    *(("Ada", "Berg", 120), ("Bo", "Chen", 310), ("Cleo", "Diaz", 540), ("Dara", "Eide", 75)),
    *(("Eli", "Fox", 1650), ("Fay", "Gray", 260), ("Gus", "Holm", 890), ("Hope", "Ito", 430)),
)
"""First name, last name, points."""
_PER_SECOND = 1.0
_SEED = 4
"""Another one than that of the demo's own traffic, whose random ids would repeat."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A customer at the shop and at Klaviyo, where `points` are None until the profile arrives."""

    name: str
    email: str
    balance: int
    points: int | None


class Shop:
    """`app` is the sandbox of its platform, `klaviyo` its account. `address`: where its events go,
    "" at first."""

    def __init__(self) -> None:
        self.address = ""
        self.klaviyo = KlaviyoSandbox(key=KLAVIYO_KEY, account_id="SHOP01")
        self._double = YotpoSandbox(guid=GUID, api_key=API_KEY, people=0)
        for first, last, points in _CUSTOMERS:
            email = f"{first}.{last}@shop.example.com".lower()
            found = self._double.add(email, first_name=first, last_name=last)
            found.adjust_points(points, "Make a Purchase", self._double.moment())
        self.app = self._double.app
        self._traffic: Traffic | None = None
        self._stop = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None

    @property
    def people(self) -> Sequence[Customer]:
        return self._double.people

    @property
    def sent(self) -> int:
        """Events sent to the present address."""
        return self._traffic.sent if self._traffic else 0

    @property
    def accepted(self) -> int:
        """Those of them that the connector accepted."""
        return len(self._traffic.acknowledged) if self._traffic else 0

    def customers(self) -> list[Seen]:
        return [
            Seen(f"{c.first_name} {c.last_name}", c.email, c.balance, self._points(c.email))
            for c in self.people
        ]

    async def send_to(self, address: str) -> None:
        """Send an event each second to this address instead of the present one."""
        await self.aclose()
        self.address, self._stop = address, asyncio.Event()
        self._traffic = Traffic(self, address, rate=_PER_SECOND, seed=_SEED)
        self._sending = asyncio.create_task(self._traffic.run(self._stop))

    def next_webhook(self, rng: random.Random) -> Webhook:
        """The next event (connector.sandbox.WebhookSource). The address is entered as a whole."""
        return dataclasses.replace(self._double.next_webhook(rng), suffix="")

    async def aclose(self) -> None:
        """Send nothing more."""
        self._stop.set()
        if self._sending is not None:
            await self._sending

    def _points(self, email: str) -> int | None:
        profile = self.klaviyo.profile(email)
        return profile["properties"].get("yotpo_balance") if profile else None


def both_accounts(first: ASGIApp, shop: Shop) -> ASGIApp:
    """Klaviyo at one address, as it is: a request's key says whose account it is about."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization", b"").decode("latin-1")
        of_shop = given.rpartition(" ")[2] in shop.klaviyo.keys
        await (shop.klaviyo.app if of_shop else first)(scope, receive, send)

    return app
