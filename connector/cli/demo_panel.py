"""The pages of the demo: what to try, buttons that break and heal Klaviyo's sandbox, and a shop to
connect.

They are served on a port of their own: the console knows nothing of sandboxes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from connector.cli.demo_shop import API_KEY, GUID, KLAVIYO_KEY, SOURCE, Shop
from connector.cli.demo_tour import Step
from connector.sandbox import KlaviyoSandbox
from connector.service.status import Status

_SAME_SITE = ("same-origin", "none", None)


@dataclass(frozen=True, slots=True)
class Break:
    """A way in which Klaviyo fails until it is healed. `state`: what it does then. `fault`: as in
    connector.sandbox.faults; without one the account's keys are revoked."""

    label: str
    state: str
    text: str
    fault: Mapping[str, Any] | None = None


BREAKS: Mapping[str, Break] = {
    "key": Break(
        "Reject the key (401)",
        "Klaviyo rejects the key",
        "Every lane is blocked, nothing is lost, and one request tests the key every 5 s.",
        {"kind": "status", "status": 401},
    ),
    "revoked": Break(
        "Revoke the key",
        "the key is revoked",
        "As when a person deletes it at Klaviyo: the key is rejected (K401) until you enter a new "
        "one.",
    ),
    "throttle": Break(
        "Storm of 429",
        "Klaviyo answers 429",
        "Klaviyo asks to come back in 5 s, again and again; the connector obeys.",
        {"kind": "status", "status": 429, "retry_after": 5},
    ),
    "error": Break(
        "Answer 500",
        "Klaviyo answers 500",
        "What may have arrived is sent again with the same id, so nothing is recorded twice.",
        {"kind": "status", "status": 500},
    ),
    "slow": Break(
        "Be slow (3 s)",
        "Klaviyo is slow",
        "Every answer takes 3 s; events arrive late and complete.",
        {"kind": "stall", "seconds": 3.0, "applied": True},
    ),
}


class Panel:
    """`app` are the pages. `status` is that of the connector, whose console is at `console`, and
    `steps` are what to try there. The platform of the `shop` is at `shop_url`."""

    def __init__(
        self,
        klaviyo: KlaviyoSandbox,
        status: Callable[[], Awaitable[Status]],
        shop: Shop,
        shop_url: str = "",
        steps: Sequence[Step] = (),
    ) -> None:
        self.console = ""
        self.broken: str | None = None
        self._klaviyo = klaviyo
        self._accounts = (klaviyo, shop.klaviyo)
        self._revocations = 0
        self._new_keys: Sequence[str] = ()
        self._status = status
        self._shop = shop
        self._shop_url = shop_url
        self._steps = steps
        self._pages = Environment(
            loader=PackageLoader("connector.cli", "demo_pages"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self.app = Starlette(
            routes=[
                Route("/", self._show),
                Route("/break/{name}", self._break, methods=["POST"]),
                Route("/heal", self._heal, methods=["POST"]),
                Route("/shop", self._show_shop),
                Route("/shop", self._send_events, methods=["POST"]),
            ]
        )

    def heal(self) -> None:
        """Let Klaviyo answer as usual."""
        for account in self._accounts:
            account.faults.clear()
            account.revoked_keys.clear()
        self.broken = None

    def _revoke_keys(self) -> None:
        """Revoke all keys and make a new one of each account."""
        self._revocations += 1
        self._new_keys = [f"pk_{name}_{self._revocations + 1}" for name in ("sandbox", "shop")]
        for account, key in zip(self._accounts, self._new_keys, strict=True):
            account.revoked_keys |= account.keys
            account.keys.add(key)

    async def _break(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in BREAKS or not _from_here(request):
            return Response(status_code=404)
        self.heal()
        fault = BREAKS[name].fault
        if fault is None:
            self._revoke_keys()
        else:
            for account in self._accounts:
                account.faults.parse({"endpoint": "*", **fault})
        self.broken = name
        return RedirectResponse("/", 303)

    async def _heal(self, request: Request) -> Response:
        if not _from_here(request):
            return Response(status_code=404)
        self.heal()
        return RedirectResponse("/", 303)

    async def _show(self, request: Request) -> Response:
        status, state = await self._status(), self._klaviyo.state()
        return self._page(
            request,
            "tour.html",
            title="Tour of the demo",
            verdict=status.verdict.text,
            events=state["events"],
            profiles=state["profiles"],
            steps=self._steps,
            breaks=BREAKS,
            broken=self.broken,
            new_keys=self._new_keys,
        )

    async def _show_shop(self, request: Request) -> Response:
        return self._shop_page(request, self._shop.address)

    async def _send_events(self, request: Request) -> Response:
        if not _from_here(request):
            return Response(status_code=404)
        given = (await request.body()).decode()
        [address] = parse_qs(given).get("address", [""])[:1]
        beginning = f"{self.console}/webhooks/"
        if not address.strip().startswith(beginning):
            fault = f"This is no webhook address of the connector: those begin with {beginning}"
            return self._shop_page(request, address, fault)
        await self._shop.send_to(address.strip())
        return RedirectResponse("/shop", 303)

    def _shop_page(self, request: Request, given: str, fault: str = "") -> Response:
        shop = self._shop
        return self._page(
            request,
            "shop.html",
            title="Your shop",
            source=SOURCE,
            guid=GUID,
            api_key=API_KEY,
            shop_url=self._shop_url,
            klaviyo_key=self._new_keys[1] if self._new_keys else KLAVIYO_KEY,
            customers=shop.customers(),
            address=shop.address,
            sent=shop.sent,
            accepted=shop.accepted,
            given=given,
            fault=fault,
        )

    def _page(self, request: Request, template: str, **values: Any) -> Response:
        style = (files("connector.cli") / "demo_pages" / "style.css").read_text()
        text = self._pages.get_template(template).render(
            console=self.console, path=request.url.path, style=Markup(style), **values
        )
        return HTMLResponse(text, 422 if values.get("fault") else 200)


def _from_here(request: Request) -> bool:
    """Other sites open in the same browser have no say."""
    return request.headers.get("sec-fetch-site") in _SAME_SITE
