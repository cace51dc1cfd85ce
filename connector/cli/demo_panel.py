"""The page of the demo with what to try, and with buttons that break and heal Klaviyo's sandbox.

It is served on a port of its own: the console knows nothing of sandboxes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from connector.cli.demo_tour import STEPS
from connector.sandbox import KlaviyoSandbox
from connector.service.status import Status

_SAME_SITE = ("same-origin", "none", None)


@dataclass(frozen=True, slots=True)
class Break:
    """A way in which Klaviyo fails until it is healed. `fault`: as in connector.sandbox.faults."""

    label: str
    text: str
    fault: Mapping[str, Any]


BREAKS: Mapping[str, Break] = {
    "key": Break(
        "Refuse the key (401)",
        "Every lane stops, nothing is lost, and one request tests the key every 5 s.",
        {"kind": "status", "status": 401},
    ),
    "scope": Break(
        "Revoke the permission (403)",
        "As after a scope was taken away: the lanes are blocked until a test succeeds.",
        {"kind": "status", "status": 403},
    ),
    "throttle": Break(
        "Storm of 429",
        "Klaviyo asks to come back in 5 s, again and again; the connector obeys.",
        {"kind": "status", "status": 429, "retry_after": 5},
    ),
    "error": Break(
        "Answer 500",
        "What may have arrived is sent again with the same id, so nothing is recorded twice.",
        {"kind": "status", "status": 500},
    ),
    "slow": Break(
        "Be slow (3 s)",
        "Every answer takes 3 s; events arrive late and complete.",
        {"kind": "stall", "seconds": 3.0, "applied": True},
    ),
}


class Panel:
    """`app` is the page. `status` is that of the connector, whose console is at `console`."""

    def __init__(self, klaviyo: KlaviyoSandbox, status: Callable[[], Awaitable[Status]]) -> None:
        self.console = ""
        self.broken: str | None = None
        self._klaviyo = klaviyo
        self._status = status
        self.app = Starlette(
            routes=[
                Route("/", self._show),
                Route("/break/{name}", self._break, methods=["POST"]),
                Route("/heal", self._heal, methods=["POST"]),
            ]
        )

    def heal(self) -> None:
        """Let Klaviyo answer as usual."""
        self._klaviyo.faults.clear()
        self.broken = None

    async def _break(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in BREAKS or not _from_here(request):
            return Response(status_code=404)
        self.heal()
        self._klaviyo.faults.parse({"endpoint": "*", **BREAKS[name].fault})
        self.broken = name
        return RedirectResponse("/", 303)

    async def _heal(self, request: Request) -> Response:
        if not _from_here(request):
            return Response(status_code=404)
        self.heal()
        return RedirectResponse("/", 303)

    async def _show(self, _: Request) -> Response:
        status, state = await self._status(), self._klaviyo.state()
        style = (files("connector.cli") / "demo_panel.css").read_text()
        steps = "".join(
            f'<li><b><a href="{self.console}{escape(step.path)}">{escape(step.title)}</a></b>'
            f'<p class="soft">{escape(step.text)}</p></li>'
            for step in STEPS
        )
        breaks = "".join(
            f"<li{' class=on' if name == self.broken else ''}>"
            f'<form method="post" action="/break/{name}"><button>{escape(each.label)}</button>'
            f'<span class="soft">{escape(each.text)}</span></form></li>'
            for name, each in BREAKS.items()
        )
        now = f"Broken: {BREAKS[self.broken].label}" if self.broken else "Klaviyo is well"
        return HTMLResponse(
            "<!doctype html><html lang=en><head><meta charset=utf-8>"
            '<meta name=viewport content="width=device-width, initial-scale=1">'
            '<meta http-equiv=refresh content=3><link rel=icon href="data:,">'
            f"<title>Tour of the demo</title><style>{style}</style></head><body><main>"
            "<h1>Tour of the demo</h1>"
            f'<p class=soft>Three platforms send events through <a href="{self.console}/">the '
            "connector's console</a> to a sandbox of Klaviyo. Nothing leaves this machine.</p>"
            f"<p class=verdict>{escape(status.verdict.text)}. At Klaviyo: {state['events']:,} "
            f"events, {state['profiles']:,} profiles.</p>"
            f"<h2>Try</h2><ol>{steps}</ol>"
            f"<h2>Break and heal Klaviyo: {escape(now)}</h2><ul>{breaks}"
            '<li><form method="post" action="/heal"><button class=heal>Heal</button>'
            "<span class=soft>Klaviyo answers as usual; what waited is sent.</span></form></li>"
            "</ul></main></body></html>"
        )


def _from_here(request: Request) -> bool:
    """Other sites open in the same browser have no say."""
    return request.headers.get("sec-fetch-site") in _SAME_SITE
