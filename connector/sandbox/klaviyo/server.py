"""Klaviyo, emulated: events, profiles, bulk imports, lists, accounts, metrics. Revision 2026-10-15.

Sources: the published spec, the official SDK's models, answers that third parties recorded live.
Guesses: the wording of error texts; reads are consistent at once, where Klaviyo's lag by minutes;
consent endpoints answer 403; more of them stand at the head of the module that holds the endpoint.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import orjson
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from connector.sandbox.faults import Faults
from connector.sandbox.gate import JSON, Gate, Operation, control_routes
from connector.sandbox.klaviyo import reads as reads
from connector.sandbox.klaviyo.account import AccountState
from connector.sandbox.klaviyo.errors import ApiJSON, Refused, errors, title
from connector.sandbox.klaviyo.events import EventApi
from connector.sandbox.klaviyo.flows import FlowApi, Flows
from connector.sandbox.klaviyo.job_api import JobApi
from connector.sandbox.klaviyo.jobs import Job, Jobs
from connector.sandbox.klaviyo.list_api import ListApi
from connector.sandbox.klaviyo.lists import Lists, MemberList
from connector.sandbox.klaviyo.operations import CONSENT, QUOTAS, extra_quotas, operation, refuse
from connector.sandbox.klaviyo.profiles import ProfileApi
from connector.sandbox.klaviyo.rules import ProfileIn
from connector.sandbox.klaviyo.segments import SegmentApi, Segments
from connector.sandbox.klaviyo.state import Memory, Profile
from connector.sandbox.klaviyo.write_ledger import Ledger, Write
from connector.sandbox.limits import Header, Limits


class KlaviyoSandbox:
    """One Klaviyo account. `app` is the ASGI app, `faults` what goes wrong, `jobs` its imports.
    `now` gives seconds since 1970, `flows` are its automations.

    What no public page states is an option; the default is the reading that forgives least.
    `bulk_repeat`: a unique id from an earlier request lets a bulk request of events "fail" or is
    dropped. `bulk_errors`: a bulk 400 names all bad items or only the first. `bulk_patch`: a bulk
    import's `meta.patch_properties` is ignored or applied. `job_repeats`: of a person's appearances
    in one import the last wins or only the first counts.

    `job_delay`: seconds until an import completes, or what tells them for a `Job`; `math.inf`: not
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
        self._authorization = f"Klaviyo-API-Key {key}".encode()
        self._limits = Limits(now) if limits else None
        self._account_id = account_id
        self._throttled = 0
        memory, lists, ledger = Memory(), Lists(), Ledger(log=log_writes)
        self.jobs = Jobs(
            memory,
            lists,
            ledger,
            now,
            delay=job_delay,
            patch=bulk_patch == "apply",
            repeats=job_repeats,
            account=account_id,
        )
        self.flows = Flows()
        self.segments = Segments()
        self._account = AccountState(
            memory, ledger, lists, self.jobs, self.violations, now, self.flows
        )
        first = bulk_errors == "first"
        inner = Starlette(
            routes=[
                *EventApi(self._account, repeat=bulk_repeat, first=first).routes,
                *ProfileApi(self._account).routes,
                *JobApi(self._account, first=first).routes,
                *ListApi(self._account).routes,
                *SegmentApi(self._account, self.segments).routes,
                *FlowApi(self.flows, now).routes,
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

    # ── what tests ask ───────────────────────────────────────────────────────────────────────────

    def recorded(self, unique_id: str) -> int:
        """How many recorded events bear this unique id."""
        return self._account.memory.recorded(unique_id)

    def unique_ids(self) -> dict[str, int]:
        """Every unique id and how many recorded events bear it."""
        return dict(self._account.memory.unique_ids())

    @property
    def foreign_metrics(self) -> list[tuple[str, str]]:
        """(metric, integration) that others of the account send; put in what they shall have."""
        return self._account.memory.foreign_metrics

    @property
    def erasures(self) -> list[str]:
        """The addresses that deletion jobs were filed for."""
        return self._account.memory.erasures

    def profile(self, email: str) -> dict[str, Any] | None:
        """The attributes of the profile with this address, in any case; None if there is none.

        {"email": …, "first_name": …, "location": {…}, "properties": {…}}: only what has a value.
        """
        self.jobs.settle()
        found = self._account.memory.by("email", email)
        return None if found is None else _attributes(found)

    def profile_id(self, email: str) -> str | None:
        """The id of the profile with this address."""
        self.jobs.settle()
        found = self._account.memory.by("email", email)
        return None if found is None else found.id

    @property
    def profiles_by_id(self) -> Mapping[str, dict[str, Any]]:
        """The attributes of every profile by id. Ids of merged profiles lead to where they went but
        are not listed."""
        self.jobs.settle()
        return _ById(self._account.memory)

    @property
    def writes(self) -> Sequence[Write]:
        """Accepted writes in order, (time, "event" | "single" | "bulk", email, keys), if they are
        logged. A bulk write is logged when its job is accepted."""
        return self._account.ledger.writes

    def in_flight(self, email: str) -> int:
        """How many queued or processing jobs hold this person."""
        return self.jobs.count_jobs_of(ProfileIn(None, {"email": email}, {}, ""))

    @property
    def overlapping_writes(self) -> int:
        """How often a write came, or was queued, while another one of the same person waited in a
        job. `overlaps` tells the kinds of the later writes."""
        return self._account.ledger.overlaps.total()

    @property
    def overlaps(self) -> Counter[str]:
        """`overlapping_writes` by kind of the later write: "event", "single", "bulk"."""
        return self._account.ledger.overlaps

    def merge(self, source_email: str, into_email: str) -> str:
        """Merge two profiles as Klaviyo's own identity resolution does; the id that is left.

        The source's id leads to the destination from now on, its address to nobody.
        """
        self.jobs.settle()
        memory = self._account.memory
        source, into = memory.by("email", source_email), memory.by("email", into_email)
        if source is None or into is None or source is into:
            raise ValueError("a merge needs two profiles")
        memory.merge(source, into)
        self._account.lists.merged(source, into)
        return into.id

    def list_members(self, list_id: str) -> list[str]:
        """The addresses of a list's members, in the order in which they joined."""
        self.jobs.settle()
        found = self._account.lists.get(list_id)
        if found is None:
            raise ValueError(f"there is no list {list_id}")
        return self._addresses(found)

    def segment_members(self, id: str) -> list[str]:
        """The addresses of a segment's members, in the order in which they joined."""
        found = self.segments.get(id)
        if found is None:
            raise ValueError(f"there is no segment {id}")
        return self._addresses(found)

    def _addresses(self, members: MemberList) -> list[str]:
        people = (self._account.memory.by_number(number) for number in members.members)
        return [person.identifiers.get("email", "") for person in people]

    def make_people(self, *emails: str) -> None:
        """Profiles that were there before us."""
        memory, now = self._account.memory, self._account.now()
        for email in emails:
            given = ProfileIn(None, {"email": email}, {}, "")
            memory.update(memory.find(given) or memory.create(now), given, now)

    def make_metric(self, name: str) -> None:
        """A metric that was there before us."""
        memory = self._account.memory
        if name not in memory.metrics:
            memory.metrics[name] = len(memory.metrics)
            memory.metric_created.append(self._account.now())

    def make_list(self, name: str, *emails: str) -> str:
        """A list of these profiles, made where there are none; its id."""
        self.make_people(*emails)
        made = self._account.lists.create(name, "single_opt_in", self._account.now())
        return self._fill(made, emails)

    def make_segment(self, name: str, *emails: str) -> str:
        """A segment of these profiles, made where there are none; its id."""
        self.make_people(*emails)
        return self._fill(self.segments.create(name, self._account.now()), emails)

    def leave_segment(self, id: str, *emails: str) -> None:
        """These are in the segment no more."""
        segment = self.segments.get(id)
        assert segment is not None
        self._empty(segment, emails)

    def join_segment(self, id: str, *emails: str, at: float | None = None) -> None:
        """These profiles, made where there are none, joined the segment `at`, now by default."""
        segment = self.segments.get(id)
        assert segment is not None
        self.make_people(*emails)
        self._fill(segment, emails, at)

    @property
    def lists(self) -> Lists:
        """The account's lists."""
        return self._account.lists

    def add_to_list(self, id: str, *emails: str) -> None:
        """Another program puts these profiles, made where there are none, on the list."""
        found = self.lists.get(id)
        assert found is not None
        self.make_people(*emails)
        self._fill(found, emails)

    def remove_from_list(self, id: str, *emails: str) -> None:
        """Another program removes these from the list."""
        found = self.lists.get(id)
        assert found is not None
        self._empty(found, emails)

    def _fill(self, made: MemberList, emails: Sequence[str], at: float | None = None) -> str:
        for email in emails:
            person = self._account.memory.by("email", email)
            assert person is not None
            made.join(person, self._account.now() if at is None else at)
        return made.id

    def _empty(self, members: MemberList, emails: Sequence[str]) -> None:
        for email in emails:
            person = self._account.memory.by("email", email)
            assert person is not None
            members.leave(person)

    def state(self) -> dict[str, object]:
        """Counters. `requests` is {"POST /api/events": {"202": 1, "reset": 1}, …}."""
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

    # ── what the gate asks ───────────────────────────────────────────────────────────────────────

    def operation(self, method: str, path: str) -> Operation:
        """Which operation a request is."""
        return operation(method, path)

    def authorize(
        self, scope: Scope, operation: Operation
    ) -> tuple[Response | None, Sequence[Header]]:
        """Key, revision and media type first, then the limits."""
        self.jobs.settle()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        refused = refuse(scope, headers, self._authorization, self.violations)
        if refused is not None:
            return refused, ()
        if scope["method"] != "GET" and scope["path"].startswith(CONSENT):
            self.violations["consent_endpoint"] += 1
            return self.refusal(403, ()), ()
        quota = QUOTAS.get(operation.label)
        if self._limits is None or quota is None:
            return None, ()
        query = QueryParams(scope["query_string"])
        for name, extra in extra_quotas(operation.label, query):
            verdict = self._limits.acquire(name, extra)
            if verdict.retry_after is not None:
                return self._throttle(verdict.retry_after), verdict.headers
        verdict = self._limits.acquire(operation.label, quota)
        if verdict.retry_after is None:
            return None, verdict.headers
        return self._throttle(verdict.retry_after), verdict.headers

    def _throttle(self, seconds: int) -> Response:
        self._throttled += 1
        unit = "second" if seconds == 1 else "seconds"
        detail = f"Request was throttled. Expected available in {seconds} {unit}."
        return errors(429, [(detail, {"pointer": "/data/"})])

    def refusal(self, status: int, pointers: Sequence[str]) -> Response:
        """An error in Klaviyo's shape."""
        detail = title(status)
        return errors(status, [(detail, {"pointer": p}) for p in pointers or ("/data",)])

    def locate(self, body: bytes, match: str) -> Sequence[str]:
        """The profile, group or event of a bulk body that contains `match`; of a single body its
        properties."""
        try:
            attributes = orjson.loads(body)["data"]["attributes"]
            if "profiles" in attributes:
                return list(_people(attributes["profiles"]["data"], match.encode()))
            return list(_places(attributes["events-bulk-create"]["data"], match.encode()))
        except (ValueError, KeyError, TypeError):
            return ("/data/attributes/properties",)

    # ── routes ───────────────────────────────────────────────────────────────────────────────────

    async def _get_accounts(self, request: Request) -> Response:
        url = request.url
        account = reads.account(self._account_id, url)
        return ApiJSON({"data": [account], "links": {"self": str(url), "next": None, "prev": None}})

    async def _sandbox_events(self, request: Request) -> Response:
        names = list(self._account.memory.metrics)
        found = self._account.memory.with_unique_id(request.query_params.get("unique_id", ""))
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


class _ById(Mapping[str, dict[str, Any]]):
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def __getitem__(self, id: str) -> dict[str, Any]:
        found = self._memory.by_id(id)
        if found is None:
            raise KeyError(id)
        return _attributes(found)

    def __iter__(self) -> Iterator[str]:
        return (profile.id for profile in self._memory.unmerged())

    def __len__(self) -> int:
        return len(self._memory.profiles) - self._memory.merges


def _attributes(found: Profile) -> dict[str, Any]:
    shown: dict[str, Any] = {**found.identifiers, **found.standard}
    if found.location:
        shown["location"] = dict(found.location)
    return {**shown, "properties": dict(found.properties)}


def _people(profiles: Any, match: bytes) -> Iterator[str]:
    for index, profile in enumerate(profiles):
        if match in orjson.dumps(profile):
            place = f"/data/attributes/profiles/data/{index}"
            for name, value in profile.get("attributes", {}).items():
                if match in orjson.dumps(value):
                    place += f"/attributes/{name}"
                    break
            yield place


def _places(groups: Any, match: bytes) -> Iterator[str]:
    for index, group in enumerate(groups if isinstance(groups, list) else ()):
        place = f"/data/attributes/events-bulk-create/data/{index}/attributes"
        inner = group.get("attributes", {})
        if match in orjson.dumps(inner.get("profile")):
            yield f"{place}/profile/data/attributes/email"
        for at, event in enumerate(inner.get("events", {}).get("data", ())):
            if match in orjson.dumps(event):
                yield f"{place}/events/data/{at}/attributes/properties"


def _without_slash(app: ASGIApp) -> ASGIApp:
    """Recorded links end in a slash, so both forms answer. An empty job id therefore reads the
    collection, as connectors met it live."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/api/"):
            scope = {**scope, "path": scope["path"].rstrip("/")}
        await app(scope, receive, send)

    return called


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response


async def _no_route(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return errors(status, [("The requested resource does not exist.", {"pointer": "/data/"})])


async def _unreadable(_: Request, error: Exception) -> Response:
    assert isinstance(error, reads.InvalidParameter)
    return errors(400, [(error.detail, {"parameter": error.parameter})])
