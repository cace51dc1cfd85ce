"""The example of docs/http-platform.md, and the platform that it describes."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.paths import ROOT

PAGE = (ROOT / "docs" / "http-platform.md").read_text("utf-8")
_BLOCKS = dict(re.findall(r"```(toml|json)\n(.*?)```", PAGE, re.DOTALL))
CONFIG: str = '[server]\nport = 0\nshutdown_timeout = "1s"\n' + _BLOCKS["toml"]
DELIVERY: dict[str, Any] = orjson.loads(_BLOCKS["json"])
SECRET, KEY = "acme_webhook_0123", "acme_api_0123"


def settings() -> dict[str, Any]:
    """The example's settings, with the environment filled in."""
    filled = CONFIG.replace("${ACME_WEBHOOK_SECRET}", SECRET).replace("${ACME_API_KEY}", KEY)
    filled = filled.replace("${ACME_URL:-https://api.acme.example}", "http://127.0.0.1")
    found: dict[str, Any] = tomllib.loads(filled)["connections"][0]["settings"]
    return found


class Acme:
    """Acme's API: members by e-mail address, and points that change once per key."""

    def __init__(self) -> None:
        self.members: dict[str, dict[str, Any]] = {
            "ana@example.com": {
                "id": "m-7",
                "email": "ana@example.com",
                "points": 120,
                "born": "1990-05-17",
                "tier": {"name": "Gold", "until": "2027-03-01T00:00:00Z"},
            }
        }
        self.applied: dict[str, dict[str, Any]] = {}
        self.seen_paths: list[str] = []
        self.app = Starlette(
            routes=[
                Route("/v1/members/{email}", self._member),
                Route("/v1/members/{email}/points", self._points, methods=["POST"]),
            ]
        )

    async def _member(self, request: Request) -> Response:
        self.seen_paths.append(request.url.path)
        if request.headers.get("x-api-key") != KEY:
            return JSONResponse({"error": "key"}, 401)
        member = self.members.get(request.path_params["email"])
        return JSONResponse({"member": member}, 200 if member else 404)

    async def _points(self, request: Request) -> Response:
        if request.headers.get("x-api-key") != KEY:
            return JSONResponse({"error": "key"}, 401)
        change = orjson.loads(await request.body())
        member = self.members.get(request.path_params["email"])
        if member is None:
            return JSONResponse({"error": "unknown"}, 404)
        if change["key"] not in self.applied:
            self.applied[change["key"]] = change
            member["points"] += change["change"]
        return JSONResponse({"id": len(self.applied), "points": member["points"]}, 201)
