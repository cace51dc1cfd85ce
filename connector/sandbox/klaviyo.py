"""Klaviyo, emulated: events in, accounts, metrics, events and profiles out. Revision 2026-10-15.

Sources: the published spec, the official SDK's models, answers that third parties recorded live.
Guesses: an unknown `profile.data.id` is refused with 400; every revision but 2026-10-15 answers
410; the wording of error texts; reads are consistent at once, where Klaviyo's lag by minutes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from connector.sandbox import klaviyo_reads as reads
from connector.sandbox.faults import Faults
from connector.sandbox.gate import JSON, Gate, Operation, control_routes
from connector.sandbox.klaviyo_errors import ApiJSON, errors, title
from connector.sandbox.klaviyo_rules import (
    MAX_BYTES,
    Group,
    Parsed,
    Violation,
    parse_bulk,
    parse_event,
)
from connector.sandbox.klaviyo_state import Memory
from connector.sandbox.limits import Header, Limits, Quota

REVISION = "2026-10-15"

QUOTAS = {
    "POST /api/events": Quota(350, 3500),
    "GET /api/events": Quota(350, 3500),
    "POST /api/event-bulk-create-jobs": Quota(10, 150),
    "GET /api/accounts": Quota(1, 15),
    "GET /api/metrics": Quota(10, 150),
    "GET /api/profiles": Quota(75, 750),
    "GET /api/profiles/{id}": Quota(75, 750),
}
"""Requests a second and a minute, per account, from the spec's `x-klaviyo-ratelimit`."""


class KlaviyoSandbox:
    """One Klaviyo account. `app` is the ASGI app, `faults` what goes wrong.

    `bulk_repeat` says what a unique id from an earlier request does to a bulk request, which no
    public page states: "fail" refuses the whole request (the strict reading), "drop" drops the
    event. `bulk_errors` says whether a 400 names every bad item or only the first, which is
    unknown too. `now` gives seconds since 1970.
    """

    def __init__(
        self,
        *,
        key: str = "pk_sandbox",
        now: Callable[[], float] = time.time,
        limits: bool = True,
        account_id: str = "SANDBX",
        bulk_repeat: Literal["drop", "fail"] = "fail",
        bulk_errors: Literal["all", "first"] = "all",
    ) -> None:
        self.faults = Faults()
        self.violations: Counter[str] = Counter()
        self._authorization = f"Klaviyo-API-Key {key}".encode()
        self._now = now
        self._limits = Limits(now) if limits else None
        self._account_id = account_id
        self._bulk_repeat = bulk_repeat
        self._bulk_errors = bulk_errors
        self._memory = Memory()
        self._throttled = 0
        inner = Starlette(
            routes=[
                Route("/api/events", self._create_event, methods=["POST"]),
                Route("/api/events", self._get_events, methods=["GET"]),
                Route("/api/event-bulk-create-jobs", self._bulk_create, methods=["POST"]),
                Route("/api/accounts", self._get_accounts, methods=["GET"]),
                Route("/api/metrics", self._get_metrics, methods=["GET"]),
                Route("/api/profiles", self._get_profiles, methods=["GET"]),
                Route("/api/profiles/{id}", self._get_profile, methods=["GET"]),
                Route("/_sandbox/events", self._sandbox_events, methods=["GET"]),
                Route("/_sandbox/unique_ids", self._sandbox_unique_ids, methods=["GET"]),
                *control_routes(self, self.faults),
            ],
            exception_handlers={HTTPException: _no_route, reads.Unreadable: _unreadable},
        )
        inner.router.redirect_slashes = False
        self._gate = Gate(inner, self, self.faults)

    @property
    def app(self) -> ASGIApp:
        """The ASGI app."""
        return self._gate

    def recorded(self, unique_id: str) -> int:
        """How many recorded events bear this unique id."""
        return self._memory.recorded(unique_id)

    def unique_ids(self) -> dict[str, int]:
        """Every unique id and how many recorded events bear it."""
        return dict(self._memory.unique_ids())

    def profile(self, email: str) -> dict[str, Any] | None:
        """The attributes of the profile with this address, in any case; None if there is none."""
        found = self._memory.by("email", email)
        if found is None:
            return None
        return {**found.identifiers, **found.standard, "properties": dict(found.properties)}

    def state(self) -> dict[str, object]:
        """Counters. `requests` is {"POST /api/events": {"202": 1, "reset": 1}, …}."""
        return {
            "requests": {label: dict(counts) for label, counts in self._gate.requests.items()},
            "events": len(self._memory),
            "duplicates": self._memory.duplicates,
            "profiles": len(self._memory.profiles),
            "metrics": len(self._memory.metrics),
            "throttled": self._throttled,
            "violations": dict(self.violations),
        }

    # ── what the gate asks ───────────────────────────────────────────────────────────────────────

    def operation(self, method: str, path: str) -> Operation:
        """Which operation a request is."""
        if path.startswith("/api/profiles/"):
            path = "/api/profiles/{id}"
        label = f"{method} {path}"
        if label not in QUOTAS:
            return Operation("other", "other")
        return Operation(label, path.removeprefix("/api/"))

    def admit(self, scope: Scope, operation: Operation) -> tuple[Response | None, Sequence[Header]]:
        """Key, revision and media type first, then the limits."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        refused = self._refuse(scope, headers)
        if refused is not None:
            return refused, ()
        quota = QUOTAS.get(operation.label)
        if self._limits is None or quota is None:
            return None, ()
        verdict = self._limits.take(operation.label, quota)
        if verdict.retry_after is None:
            return None, verdict.headers
        self._throttled += 1
        unit = "second" if verdict.retry_after == 1 else "seconds"
        detail = f"Request was throttled. Expected available in {verdict.retry_after} {unit}."
        return errors(429, [(detail, {"pointer": "/data/"})]), verdict.headers

    def refusal(self, status: int, pointers: Sequence[str]) -> Response:
        """An error in Klaviyo's shape."""
        detail = title(status)
        return errors(status, [(detail, {"pointer": p}) for p in pointers or ("/data",)])

    def locate(self, body: bytes, match: str) -> Sequence[str]:
        """The group or event of a bulk body that contains `match`; of a single body the event."""
        try:
            parsed = orjson.loads(body)
            groups = parsed["data"]["attributes"]["events-bulk-create"]["data"]
        except (ValueError, KeyError, TypeError):
            return ("/data/attributes/properties",)
        return list(_places(groups, match.encode()))

    def _refuse(self, scope: Scope, headers: dict[bytes, bytes]) -> Response | None:
        given = headers.get(b"authorization")
        if given is None:
            self.violations["authorization"] += 1
            detail = "Missing or invalid authorization scheme. Please use Klaviyo-API-Key."
            return errors(401, [(detail, {"pointer": "/data/"})], code="not_authenticated")
        if given != self._authorization:
            self.violations["authorization"] += 1
            return errors(401, [("Missing or invalid private key.", {"pointer": "/data/"})])
        revision = headers.get(b"revision")
        if revision is None:
            self.violations["revision"] += 1
            return errors(400, [("Missing revision header.", {"parameter": "revision"})])
        if revision.decode("latin-1") != REVISION:
            self.violations["revision"] += 1
            return errors(410, [("Unsupported revision.", {"parameter": "revision"})])
        if scope["method"] == "POST":
            media = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            if media not in (b"application/vnd.api+json", b"application/json"):
                self.violations["content_type"] += 1
                return errors(415, [("Unsupported media type.", {"pointer": "/data"})])
        return None

    # ── writes ───────────────────────────────────────────────────────────────────────────────────

    async def _create_event(self, request: Request) -> Response:
        return self._take(await request.body(), parse_event, bulk=False)

    async def _bulk_create(self, request: Request) -> Response:
        return self._take(await request.body(), parse_bulk, bulk=True)

    def _take(self, body: bytes, parse: Callable[[Any, float], Parsed], *, bulk: bool) -> Response:
        if len(body) > MAX_BYTES:
            self.violations["payload_too_large"] += 1
            return errors(413, [("The payload is larger than 5MB.", {"pointer": "/data"})])
        now = self._now()
        try:
            parsed = parse(orjson.loads(body), now)
        except orjson.JSONDecodeError:
            self.violations["json"] += 1
            return errors(400, [("Malformed request.", {"pointer": "/data"})], code="parse_error")
        found = parsed.violations
        found += self._strangers(parsed.groups)
        if bulk and not found:
            found += self._repeats(parsed.groups)
        if found:
            self.violations.update(violation.name for violation in found)
            if bulk and self._bulk_errors == "first":
                found = found[:1]
            return errors(400, [(v.detail, {"pointer": v.pointer}) for v in found])
        for group in parsed.groups:
            self._memory.apply(group, now)
        return Response(status_code=202)

    def _strangers(self, groups: Sequence[Group]) -> Iterator[Violation]:
        for group in groups:
            id = group.profile.id
            if id is not None and self._memory.by_id(id) is None:
                pointer = f"{group.profile.pointer}/id"
                yield Violation("profile_unknown", pointer, "A profile with this id does not exist")

    def _repeats(self, groups: Sequence[Group]) -> Iterator[Violation]:
        """Repeats within the request and, with "fail", of what was recorded before."""
        seen: set[tuple[object, str, str]] = set()
        for group in groups:
            profile = self._memory.find(group.profile)
            person: object = profile.number if profile else _face(group)
            for event in group.events:
                if event.unique_id is None:
                    continue
                key = (person, event.metric, event.unique_id)
                pointer = f"{event.pointer}/attributes/unique_id"
                if key in seen:
                    detail = "The unique_id is repeated for this profile and metric."
                    yield Violation("unique_id_repeated", pointer, detail)
                elif (
                    self._bulk_repeat == "fail"
                    and profile is not None
                    and self._memory.known(profile, event.metric, event.unique_id)
                ):
                    detail = "The unique_id was already used for this profile and metric."
                    yield Violation("unique_id_recorded", pointer, detail)
                seen.add(key)

    # ── reads ────────────────────────────────────────────────────────────────────────────────────

    async def _get_events(self, request: Request) -> Response:
        return ApiJSON(reads.events(self._memory, request.query_params, request.url))

    async def _get_profiles(self, request: Request) -> Response:
        return ApiJSON(reads.profiles(self._memory, request.query_params, request.url))

    async def _get_metrics(self, request: Request) -> Response:
        return ApiJSON(reads.metrics(self._memory, request.query_params, request.url))

    async def _get_profile(self, request: Request) -> Response:
        id = str(request.path_params["id"])
        found = self._memory.by_id(id)
        if found is None:
            detail = f"A profile with id {id} does not exist."
            return errors(404, [(detail, {"pointer": "/data/"})])
        return ApiJSON({"data": reads.profile(found, request.url)})

    async def _get_accounts(self, request: Request) -> Response:
        url = request.url
        account = reads.account(self._account_id, url)
        return ApiJSON({"data": [account], "links": {"self": str(url), "next": None, "prev": None}})

    # ── the sandbox's own window ─────────────────────────────────────────────────────────────────

    async def _sandbox_events(self, request: Request) -> Response:
        names = list(self._memory.metrics)
        found = self._memory.bearing(request.query_params.get("unique_id", ""))
        shown = [
            {
                "id": event.id,
                "metric": names[event.metric],
                "profile": {"id": event.profile.id, **event.profile.identifiers},
                "time": reads.iso(event.time),
                "properties": event.properties,
            }
            for event in found
        ]
        return JSON({"count": len(shown), "events": shown})

    async def _sandbox_unique_ids(self, _: Request) -> Response:
        return JSON(self.unique_ids())


def _face(group: Group) -> tuple[str, str]:
    """Whom a group means while no profile exists: two groups with one address are one person."""
    attributes = group.profile.attributes
    for name in ("email", "phone_number", "external_id", "anonymous_id", "_kx"):
        value = attributes.get(name)
        if value is not None:
            return name, value.lower() if name == "email" else value
    return "id", str(group.profile.id)


def _places(groups: Any, match: bytes) -> Iterator[str]:
    for index, group in enumerate(groups if isinstance(groups, list) else ()):
        place = f"/data/attributes/events-bulk-create/data/{index}/attributes"
        inner = group.get("attributes", {})
        if match in orjson.dumps(inner.get("profile")):
            yield f"{place}/profile/data/attributes/email"
        for at, event in enumerate(inner.get("events", {}).get("data", ())):
            if match in orjson.dumps(event):
                yield f"{place}/events/data/{at}/attributes/properties"


async def _no_route(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return errors(status, [("The requested resource does not exist.", {"pointer": "/data/"})])


async def _unreadable(_: Request, error: Exception) -> Response:
    assert isinstance(error, reads.Unreadable)
    return errors(400, [(error.detail, {"parameter": error.parameter})])
