"""The Klaviyo sandbox: events, profiles, bulk imports, lists, segments, OAuth. Revision 2026-10-15.

Sources: the published spec, the models of the official SDK, responses that third parties recorded
live. Guesses: error texts; reads are consistent at once, while at Klaviyo they may lag by minutes;
consent endpoints answer 403. Further guesses are listed in the modules of the endpoints.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from connector.sandbox.faults import Faults
from connector.sandbox.gate import JSON, Gate, Operation, control_routes
from connector.sandbox.klaviyo import reads, views
from connector.sandbox.klaviyo.account import AccountState
from connector.sandbox.klaviyo.control import AccountControl
from connector.sandbox.klaviyo.documents import Documents
from connector.sandbox.klaviyo.errors import Refused, errors, refusal, throttled
from connector.sandbox.klaviyo.events import EventApi
from connector.sandbox.klaviyo.flow_api import FlowApi
from connector.sandbox.klaviyo.flows import Flows
from connector.sandbox.klaviyo.job_api import JobApi
from connector.sandbox.klaviyo.jobs import Job, Jobs
from connector.sandbox.klaviyo.list_api import ListApi
from connector.sandbox.klaviyo.lists import Lists
from connector.sandbox.klaviyo.oauth import OAuthServer, required_scopes
from connector.sandbox.klaviyo.operations import (
    CONSENT,
    QUOTAS,
    extra_quotas,
    key_rejected,
    operation,
    reject,
)
from connector.sandbox.klaviyo.pointers import pointers_to
from connector.sandbox.klaviyo.profiles import ProfileApi
from connector.sandbox.klaviyo.related import relations
from connector.sandbox.klaviyo.segment_api import SegmentApi
from connector.sandbox.klaviyo.segments import Segments
from connector.sandbox.klaviyo.state import Memory
from connector.sandbox.klaviyo.write_ledger import Ledger
from connector.sandbox.limits import Header, Limits

_SCHEME = "Klaviyo-API-Key"


class KlaviyoSandbox(AccountControl):
    """One Klaviyo account. `app`: the ASGI app. `faults`: the injected faults. `oauth`: the app's
    authorization server. `keys`: the private keys; one in `revoked_keys` is answered 401, which
    breaks no rule. `now`: the clock, in seconds since 1970.

    Behaviour that no public page states is an option; the default is the strictest reading.
    `bulk_repeat`: a unique id from an earlier request makes a bulk request of events fail, or is
    dropped. `bulk_errors`: a bulk 400 names all bad items or only the first. `bulk_patch`: a bulk
    import's `meta.patch_properties` is ignored or applied. `job_repeats`: if a person appears
    several times in one import, the last or the first one counts.

    `job_delay`: seconds until an import completes, or a function of the `Job`; `math.inf`: not
    before `jobs.run`. `log_writes`: keep every accepted write in `writes`.
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
        bulk_patch: Literal["ignore", "apply"] = "ignore",
        job_repeats: Literal["last", "first"] = "last",
        job_delay: float | Callable[[Job], float] = 1.0,
        log_writes: bool = False,
    ) -> None:
        self.faults = Faults()
        self.violations: Counter[str] = Counter()
        self.keys = {key}
        self.revoked_keys: set[str] = set()
        self.oauth = OAuthServer(now)
        self._limits = Limits(now) if limits else None
        self._app_limits = Limits(now)
        self.account_id = account_id
        self._throttled = 0
        memory, lists, ledger = Memory(), Lists(), Ledger(log=log_writes)
        jobs = Jobs(
            memory,
            lists,
            ledger,
            now,
            delay=job_delay,
            patch=bulk_patch == "apply",
            repeats=job_repeats,
            account=account_id,
        )
        super().__init__(
            AccountState(memory, ledger, lists, jobs, self.violations, now, Flows()), Segments()
        )
        first = bulk_errors == "first"
        documents = Documents(relations(self._account, self._segments))
        self._documents = documents
        inner = Starlette(
            routes=[
                *EventApi(self._account, documents, repeat=bulk_repeat, first=first).routes,
                *ProfileApi(self._account, documents).routes,
                *JobApi(self._account, documents, first=first).routes,
                *ListApi(self._account, documents).routes,
                *SegmentApi(self._account, self._segments, documents).routes,
                *FlowApi(self.flows, documents).routes,
                *self.oauth.routes,
                Route("/api/accounts", self._get_accounts, methods=["GET"]),
                Route("/_sandbox/events", self._sandbox_events, methods=["GET"]),
                Route("/_sandbox/unique_ids", self._sandbox_unique_ids, methods=["GET"]),
                *control_routes(self, self.faults),
            ],
            exception_handlers={
                HTTPException: _no_route,
                reads.InvalidParameter: _unreadable,
                Refused: _refused,
            },
        )
        inner.router.redirect_slashes = False
        self._gate = Gate(_without_slash(inner), self, self.faults)

    @property
    def app(self) -> ASGIApp:
        """The ASGI app."""
        return self._gate

    def state(self) -> dict[str, object]:
        """Counters. `requests`: {"POST /api/events": {"202": 1, "reset": 1}, …}."""
        self.jobs.settle()
        memory, now = self._account.memory, self._account.now()
        return {
            "requests": {label: dict(counts) for label, counts in self._gate.requests.items()},
            "events": len(memory),
            "duplicates": memory.duplicates,
            "profiles": len(memory.profiles) - memory.merges,
            "metrics": len(memory.metrics),
            "throttled": self._throttled,
            "violations": dict(self.violations),
            "jobs": dict(Counter(job.status(now) for job in self.jobs.all())),
            "job_repeats": self.jobs.duplicates,
            "ignored": dict(self.jobs.ignored),
            "overlapping_writes": self.overlapping_writes,
        }

    # ── called by the gate ───────────────────────────────────────────────────────────────────────

    def operation(self, method: str, path: str) -> Operation:
        """The operation of a request."""
        return operation(method, path)

    def authorize(
        self, scope: Scope, operation: Operation
    ) -> tuple[Response | None, Sequence[Header]]:
        """Check key or token, revision and media type, then the scope and the rate limits."""
        if scope["path"].startswith("/oauth/"):
            return None, ()
        self.jobs.settle()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"authorization")
        scheme, _, key = (given or b"").decode("latin-1").partition(" ")
        if scheme == _SCHEME and key in self.revoked_keys:
            return key_rejected(), ()
        scopes = self.oauth.scopes_of(given)
        authorized = scopes is not None or (scheme == _SCHEME and key in self.keys)
        rejected = reject(scope, headers, authorized, self.violations)
        if rejected is not None:
            return rejected, ()
        throttle, quota_headers = self._acquire(scope, operation, scopes)
        if throttle is not None:
            return throttle, ()
        forbidden = scope["method"] != "GET" and scope["path"].startswith(CONSENT)
        if forbidden:
            self.violations["consent_endpoint"] += 1
        required = set(required_scopes(operation.label))
        if forbidden or (scopes is not None and not required <= set(scopes)):
            return refusal(403), quota_headers
        return None, quota_headers

    def _acquire(
        self, scope: Scope, operation: Operation, scopes: Sequence[str] | None
    ) -> tuple[Response | None, Sequence[Header]]:
        """The response if the request is above a limit, and the headers that show the quota."""
        quota = QUOTAS.get(operation.label)
        # Each installed app has a quota of its own; the private keys of an account share one.
        limits = self._limits and (self._limits if scopes is None else self._app_limits)
        if limits is None or quota is None:
            return None, ()
        query = QueryParams(scope["query_string"])
        shown: Sequence[Header] = ()
        quotas = [(operation.label, quota, True), *extra_quotas(operation.label, query)]
        for name, limit, is_shown in quotas:
            verdict = limits.acquire(name, limit)
            if verdict.retry_after is not None:
                self._throttled += 1
                return throttled(verdict.retry_after), ()
            shown = verdict.headers if is_shown else shown
        return None, shown

    def refusal(self, status: int, pointers: Sequence[str]) -> Response:
        """An error response in Klaviyo's format."""
        return refusal(status, pointers)

    def locate(self, body: bytes, match: str) -> Sequence[str]:
        """JSON pointers to what contains `match`."""
        return pointers_to(body, match)

    # ── routes ───────────────────────────────────────────────────────────────────────────────────

    async def _get_accounts(self, request: Request) -> Response:
        return self._documents.page(request, [views.account(self.account_id, request.url)])

    async def _sandbox_events(self, request: Request) -> Response:
        names = list(self._account.memory.metrics)
        found = self._account.memory.with_unique_id(request.query_params.get("unique_id", ""))
        shown = [
            {
                "id": event.id,
                "metric": names[event.metric],
                "profile": {"id": event.profile.id, **event.profile.identifiers},
                "time": views.iso(event.time),
                "properties": event.properties,
            }
            for event in found
        ]
        return JSON({"count": len(shown), "events": shown})

    async def _sandbox_unique_ids(self, _: Request) -> Response:
        return JSON(self.unique_ids())


def _without_slash(app: ASGIApp) -> ASGIApp:
    """Accept a trailing slash, which recorded links have. A request for a job with an empty id then
    reads the collection, as observed live."""

    async def without_slash(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/api/"):
            scope = {**scope, "path": scope["path"].rstrip("/")}
        await app(scope, receive, send)

    return without_slash


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response


async def _no_route(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return errors(status, [("The requested resource does not exist.", {"pointer": "/data/"})])


async def _unreadable(_: Request, error: Exception) -> Response:
    assert isinstance(error, reads.InvalidParameter)
    return errors(400, [(error.detail, {"parameter": error.parameter})])
