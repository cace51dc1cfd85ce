"""Everything around the daemons: a loyalty platform, a Klaviyo account, the network, the store, and
what was acknowledged. `faults` says which guarantees of ARCHITECTURE.md do not hold."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
from sqlalchemy import bindparam, insert, select

from connector.config import Config
from connector.domain.actions import ActionReceipt
from connector.domain.approvals import DEFAULT_SHARE, FIRST_SYNC, MASS_UNSET, REMOVAL
from connector.domain.errors import Problem
from connector.domain.records import State
from connector.klaviyo.limits import GET_ACCOUNTS, LIMITS
from connector.klaviyo.sink.profiles import ProfileSink
from connector.pipeline.lease import STORE_RESOURCE
from connector.platforms.wll.settings import Settings
from connector.platforms.wll.webhook import WllWebhook
from connector.ports import Fence
from connector.sandbox import KlaviyoSandbox, WllSandbox
from connector.sandbox.klaviyo.operations import operation
from connector.sandbox.wll.users import Tier, User, Users
from connector.sandbox.wll.webhooks import PendingEvent, WebhookFactory
from connector.store.admin.retention import NO_BODY
from connector.store.tables import (
    actions,
    backfills,
    memberships,
    metadata,
    outbox,
    profiles,
    reads,
)

from .aims import Traps
from .configs import LEAVE_FLOOR, MODULES
from .database import Disk, FaultyDatabase
from .loop import Owner, SimulatedLoop
from .network import Network
from .process import START_MS, UNSET_FLOOR, Process

PLATFORM_PORT, KLAVIYO_PORT = 8001, 8002
LIST = "Gold members"
AUDIENCE = "Gold"
PEOPLE = 5
"""Users that events are about."""
GOLD = 1500
"""Earned points from which on a user is in the audience (the sandbox's tiers)."""
FLOW_SECRET = "flow_secret"
CALL_LIMIT = 90.0
"""Seconds after which no one may wait for one answer any more."""
CLAIM_LIMIT = 600.0
"""Seconds after which a record that is claimed counts as forgotten: an import job takes at most 20,
a lost one is given up after a minute, and a process that dies holds its lease for 12."""
CLAIM_GRACE = 1.0
"""Seconds after a stop in which a claim that was under way may be committed."""
START_LIMIT = 8.0
"""Seconds after its first request to anyone in which a process takes webhooks."""
STOP_LIMIT = 20.0
"""Seconds in which a stop ends, with a shutdown_timeout of 10."""
RATE_WINDOW = 50.0
"""Seconds in which no more than a minute's share of requests is sent: a little less than a minute,
because a request may leave some time after it was granted."""
LIVE_LIMIT = 45.0
"""Seconds in which a live event and its person's new fields are at Klaviyo, where nothing fails."""
PAUSE_GRACE = 75.0
"""Seconds after a pause in which what was in flight may still be sent."""
BIRTHDATE = "wll_birthdate"
PROFILES_AT_ONCE = ProfileSink.single.parallel
"""People whose write may be claimed before it is known that too many lose a field."""
_QUEUES = ((outbox, "seq"), (reads, "person"), (profiles, "person"), (memberships, "id"))
_QUEUES += ((actions, "seq"),)
_approvals, _commands = metadata.tables["approvals"], metadata.tables["commands"]
_leases, _lanes, _groups = (metadata.tables[name] for name in ("leases", "lanes", "groups"))
_LEASES = select(_leases.c["resource", "holder", "token"])
_ALL = {table: select(table) for table in metadata.sorted_tables}
_WAITING = {
    table: _ALL[table].where(table.c.state.in_((State.READY, State.CLAIMED)))
    for table, _ in _QUEUES
}
_CLAIMED = {table: _ALL[table].where(table.c.state == State.CLAIMED) for table, _ in _QUEUES}
_APPROVALS = select(_approvals.c["id", "what"]).where(_approvals.c.state == bindparam("wanted"))
_COMMAND = select(_commands.c["done_at", "ok"]).where(_commands.c.id == bindparam("this"))
_OPEN_COMMANDS = select(_commands.c["id", "kind"]).where(_commands.c.done_at.is_(None))
_FAILED = select(_commands).where(_commands.c.ok == 0, _commands.c.kind != "pause")
"""Not a pause: it was ended since."""
_HELD_LANES = select(_lanes).where(_lanes.c.problem == Problem.HIGH_DEAD_RATE)
_EMPTIED = select(outbox).where(
    outbox.c.state.not_in((State.ACCEPTED, State.SKIPPED)), outbox.c.data == NO_BODY
)
_OF_MODULE = {"profiles": (profiles, reads), "audiences": (memberships,)}
"""What waits while the module is off."""
_LINKED = select(_groups.c.remote_id).where(
    _groups.c.name == LIST, _groups.c.remote_id.is_not(None)
)
_UNKNOWN = (State.DEAD, Problem.ACTION_UNKNOWN_PERSON)


@dataclass(slots=True)
class Sent:
    """A call from outside, and whether the daemon has acknowledged it."""

    name: str
    deliver: Callable[[Process], Any]
    acknowledged: bool = False
    tries: int = 0
    id: str = ""
    """The unique id of its event."""


@dataclass(slots=True)
class Oracle:
    """What the daemons have acknowledged."""

    events: dict[str, float] = field(default_factory=dict)
    """Unique id of each acknowledged event → when."""
    shadow: set[str] = field(default_factory=set)
    """Those that were first received in shadow mode, also actions."""
    disabled: set[str] = field(default_factory=set)
    """Those that were first received while the module was off."""
    actions: dict[str, float] = field(default_factory=dict)
    """Reason of each acknowledged action → when."""
    first_sync_approved: bool = False
    strangers: set[str] = field(default_factory=set)
    """Reasons of the actions for people that the platform does not know."""
    forgotten: dict[str, User] = field(default_factory=dict)
    """By address."""
    events_of: dict[str, str] = field(default_factory=dict)
    """Unique id of each event → address of its person."""
    paused_since: float | None = None
    faults: list[str] = field(default_factory=list)
    """What was wrong at once, whatever came after."""


@dataclass(slots=True)
class Unset:
    """A field that many people have lost at the platform, and what the daemons made of it."""

    people: set[str] = field(default_factory=set)
    """Addresses."""
    writes: int = 0
    """Writes of profiles since the first of them lost it at Klaviyo."""
    done: set[str] = field(default_factory=set)
    """Those who have lost it at Klaviyo."""
    asks: bool = False
    """Whether a live flow may depend on it."""
    approved: bool = False
    rejected: bool = False


@dataclass(slots=True)
class Removal:
    """A crowd of the audience that no event names, so that scans alone can remove them
    from the list."""

    people: dict[str, User] = field(default_factory=dict)
    """By address."""
    done: set[str] = field(default_factory=set)
    """Those who were removed from Klaviyo's list."""
    cut: bool = False
    """Whether the platform has left out people who are in the audience."""
    approved: bool = False

    @property
    def most(self) -> int:
        """How many of them may leave without approval, in one scan that saw a part of them: all
        who remain are too many for the next one."""
        return max(LEAVE_FLOOR, int(DEFAULT_SHARE * (len(self.people) + PEOPLE)))


class _CutTier(Tier):
    """One that stays as it is."""

    def refresh(self, users: Users) -> tuple[list[User], list[User]]:
        return [], []


class World:
    """One simulated world. `people` users are at the platform from the beginning; the first two are
    in the audience and never leave it."""

    def __init__(
        self,
        loop: SimulatedLoop,
        rng: random.Random,
        config: Config,
        *,
        people: int = PEOPLE,
        job_delay: Any = 1.0,
    ) -> None:
        self.loop = loop
        self.rng = rng
        self.config = config
        self.wll = WllSandbox(now=self._seconds, people=people)
        self.klaviyo = KlaviyoSandbox(
            now=self._seconds, limits=False, job_delay=job_delay, log_writes=True
        )
        self.network = Network(
            loop, rng, {PLATFORM_PORT: self.wll.app, KLAVIYO_PORT: self.klaviyo.app}
        )
        self.network.on_send = self._on_send
        self.network.on_change = self._on_change
        self.network.on_arrival = self._on_arrival
        self.network.on_answer = self._on_answer
        self.disk = Disk()
        self.processes: list[Process] = []
        self._late_events = 0
        """Events of bulk jobs that arrived after their sender had given them up."""
        self._repeated: set[int] = set()
        self.oracle = Oracle()
        self.lines: list[str] = []
        self.store_fault: Callable[[int], Any] = lambda call: None
        self.traps = Traps(self.note)
        self.slow_store = False
        self.quiet: dict[str, User] = {}
        """By address."""
        self.unset = Unset()
        self.removal = Removal()
        self.ends_without: str | None = None
        """The module that is off in the end."""
        self.flow_list: str | None = None
        """The list that a live flow starts for."""
        self.traces = False
        """Whether requests are noted as well."""
        for number, user in enumerate(self.users):
            user.earned = GOLD + 100 if number < 2 else 100
        self.anchors = {user.email for user in self.users[:2]}
        self._webhooks = WebhookFactory(self.wll.webhook_secret)
        settings = config.connection("acme").settings
        assert isinstance(settings, Settings)
        self._parser = WllWebhook(settings)
        self._numbers = itertools.count(1)
        self._pauses: set[int] = set()
        self._writing: Counter[tuple[str, str]] = Counter()
        self._claimed_since: dict[tuple[Any, ...], float] = {}
        self._sent_at: defaultdict[str, deque[float]] = defaultdict(deque)
        self._quiet_since = 0
        self._named: set[str] = set()
        """Addresses of those that an event has named."""
        self.wll.refresh()
        self.wll.waiting.clear()

    # ── time and words ───────────────────────────────────────────────────────────────────────────

    def _seconds(self) -> float:
        return START_MS / 1000 + self.loop.time()

    def note(self, text: str) -> None:
        self.lines.append(f"{self.loop.time():10.3f} {text}")

    @property
    def users(self) -> list[User]:
        """Those about which there are events."""
        others = self.quiet.keys() | self.removal.people.keys()
        return [user for user in self.wll.people if user.email not in others]

    def add_quiet(self, people: int) -> None:
        """People without an event, so that only a backfill finds them."""
        for number in range(len(self.quiet), len(self.quiet) + people):
            user = self.wll.add(f"quiet{number}@example.com", earned=100, points=number)
            self.quiet[user.email] = user
        self._quiet_since = self.now_ms()
        self._refresh_silently(self.quiet)

    def add_members(self, people: int) -> None:
        """People of the audience without an event."""
        for number in range(people):
            user = self.wll.add(f"member{number}@example.com", earned=GOLD)
            self.removal.people[user.email] = user
        self._refresh_silently(self.removal.people)

    def leave(self) -> None:
        """They leave the audience, and the platform does not say so."""
        for user in self.removal.people.values():
            user.earned = 100
        self._refresh_silently(self.removal.people)

    @contextmanager
    def cut_audience(self, people: int) -> Iterator[None]:
        """The platform answers as if the audience had its first `people` members only."""
        whole = self.audience()
        first = dict(list(whole.members.items())[:people])
        self.removal.cut = True
        self.wll.audiences[whole.id] = _CutTier(whole.id, whole.name, first)
        try:
            yield
        finally:
            self.wll.audiences[whole.id] = whole

    def _refresh_silently(self, people: Mapping[str, User]) -> None:
        """Without events about these."""
        self.wll.refresh()
        others = [each for each in self.wll.waiting if each.user.email not in people]
        self.wll.waiting.clear()
        self.wll.waiting.extend(others)

    def retain(self) -> None:
        """What the holder of the store's lease does at night."""
        for process in self.alive():
            if process.serves and process.app.leases.of(STORE_RESOURCE).valid():
                self.note(f"{process.name} applies retention")
                process.call(process.app.apply_retention)

    @property
    def guarded(self) -> bool:
        """Whether a person is asked before live flows could start for many."""
        return bool(self.config.connection("acme").klaviyo.flow_guard != "off")

    # ── processes ────────────────────────────────────────────────────────────────────────────────

    def start_process(self) -> Process:
        name = f"p{len(self.processes) + 1}"
        self.note(f"{name} starts")
        database = FaultyDatabase(self.disk, self.rng)
        database.slow = self.slow_store
        process = Process(name, self.loop, database, lambda: self.config)
        database.planned_fault = lambda call, name: (
            self.traps.meet(process, "called", name) or self.store_fault(call)
        )
        database.on_commit = lambda name, result: self._on_commit(process, name, result)
        self.processes.append(process)
        return process

    def _on_commit(self, process: Process, name: str, result: Any) -> None:
        is_claim = name.endswith(".claim") and result is not None
        if name == "SqlMaintenance.clear_bodies":
            self._check_bodies()
        if is_claim and process.stopping_since(self.loop.time() - CLAIM_GRACE):
            self.oracle.faults.append(f"{process.name} claims after it was stopped: {name}")
        if name == "SqlLanes.set_state":
            self._check_lanes()
        self.traps.meet(process, "committed", name)

    def alive(self) -> list[Process]:
        return [process for process in self.processes if process.alive]

    def holder(self) -> Process | None:
        """The process that may deliver, and has started."""
        for process in self.alive():
            if process.serves and any(
                lease.valid() and lease.resource != STORE_RESOURCE
                for lease in process.app.leases.held()
            ):
                return process
        return None

    async def end(self) -> None:
        """End everything that still runs in any process, dead or alive."""
        self.store_fault = lambda call: None
        self.traps.clear()
        for process in self.processes:
            process.database.dead = True
            self.loop.thaw(process)
        for process in self.processes:
            tasks = [task for task in process.tasks if not task.done()]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=60.0)

    # ── calls from outside ───────────────────────────────────────────────────────────────────────

    def event(self, kind: str, user: User, **payload: Any) -> Sent:
        """A webhook about a user, to be delivered now or later, once or several times."""
        pending = PendingEvent(kind, user, {"n": next(self._numbers), **payload})
        return self.webhook(pending)

    def webhook(self, pending: PendingEvent) -> Sent:
        webhook = self._webhooks.webhook(pending, self._seconds())
        [record] = self._parser.parse({}, webhook.body)

        self.oracle.events_of[record.unique_id] = pending.user.email
        self._named.add(pending.user.email)

        async def deliver(process: Process) -> None:
            endpoint = process.app.runtimes["acme"].webhook_endpoint
            assert endpoint
            connection = process.app.connections._config.connection("acme")
            # Also where the answer is lost: it is received then.
            if record.unique_id not in self.oracle.events and connection.mode == "shadow":
                self.oracle.shadow.add(record.unique_id)
            if record.unique_id not in self.oracle.events and "events" not in connection.modules:
                self.oracle.disabled.add(record.unique_id)
            await endpoint.receive(self.wll.webhook_secret, webhook.headers, webhook.body)
            self.oracle.events.setdefault(record.unique_id, self.loop.time())
            sent.acknowledged = True

        sent = Sent(f"{pending.type} of {pending.user.auth} ({record.unique_id[4:12]})", deliver)
        sent.id = record.unique_id
        return sent

    def flow_call(self, who: dict[str, str], amount: int, *, stranger: bool = False) -> Sent:
        """A flow asks for points. Its reason is unique, so that it can be found again."""
        reason = f"call {next(self._numbers)}"
        if stranger:
            self.oracle.strangers.add(reason)
        route = "points/adjust"
        body = {
            **who,
            "point_adjustment_amount": amount,
            "apply_adjustment_to_points_earned": False,
            "history_title": reason,
        }
        content = orjson.dumps(body)
        headers = {"api-key": FLOW_SECRET, "idempotency-key": reason}

        async def deliver(process: Process) -> None:
            endpoint = process.app.runtimes["acme"].flow_endpoint
            assert endpoint
            if not endpoint.enabled:
                return  # connector.web.flows answers 503
            shadow = process.app.connections._config.connection("acme").mode == "shadow"
            if reason not in self.oracle.actions and shadow:
                self.oracle.shadow.add(reason)
            receipt = await endpoint.receive(route, headers, content)
            assert isinstance(receipt, ActionReceipt), receipt
            self.oracle.actions.setdefault(reason, self.loop.time())
            sent.acknowledged = True

        sent = Sent(f"flow call {reason} for {who}: {amount}", deliver)
        return sent

    def deliver(self, sent: Sent) -> bool:
        """Send it to some process that serves, if one does."""
        serving = [process for process in self.alive() if process.serves]
        if not serving:
            return False
        process = self.rng.choice(serving)
        sent.tries += 1
        self.note(f"{sent.name} → {process.name}")
        process.call(lambda: _delivered(sent, process))
        return True

    def command(self, kind: str, **args: Any) -> int:
        """As the command line submits one; its id."""
        values = {
            "kind": kind,
            "connection": str(args.get("connection", "")),
            "args": orjson.dumps(args).decode(),
            "created_by": "ana",
        }
        table = metadata.tables["commands"]
        statement = insert(table).values(values | {"submitted_at": self.now_ms()})
        id = self.disk.execute(lambda c: c.execute(statement.returning(table.c.id)).scalar_one())
        self.note(f"command {id}: {kind} {args}")
        if kind == "resume":
            self._pauses.clear()
            self.oracle.paused_since = None
        if kind == "pause":
            self._pauses.add(id)
            self.loop.spawn(None, self._note_pause(id))
        return int(id)

    async def until_done(self, command: int, seconds: float) -> None:
        """Wait until a command has a result, for up to so long."""
        for _ in range(round(seconds)):
            [row] = self.disk.rows(_COMMAND, this=command)
            if row.done_at is not None:
                return
            await asyncio.sleep(1.0)

    def guard_list(self) -> None:
        """A live flow starts for whoever is added to the list."""
        self.flow_list = self.klaviyo.make_list(LIST)
        self.klaviyo.flows.add("Welcome", "live", "Added to List", self.flow_list)

    def decide(self, approval: int, what: str, *, approve: bool) -> None:
        """A person answers what waits for approval."""
        self.oracle.first_sync_approved |= approve and what == FIRST_SYNC
        self.removal.approved |= approve and what == REMOVAL
        if what == MASS_UNSET:
            self.unset.approved |= approve
            self.unset.rejected |= not approve
        self.command("approve" if approve else "reject", id=approval, by="ana")

    def approvals(self, state: str) -> list[tuple[int, str]]:
        """The id of each in this state, and what it is about."""
        return [(row.id, row.what) for row in self.disk.rows(_APPROVALS, wanted=state)]

    def pending_approvals(self) -> list[tuple[int, str]]:
        return self.approvals("pending")

    def forget(self, user: User) -> None:
        """A person is erased here, for good."""
        self.oracle.forgotten[user.email] = user
        self.command("forget", connection="acme", person=user.email)

    async def _note_pause(self, id: int) -> None:
        """From the moment at which a pause was carried out, and until a person says otherwise,
        nothing is sent, whoever holds the lease."""
        while id in self._pauses:
            [row] = self.disk.rows(_COMMAND, this=id)
            if row.done_at is not None:
                self._pauses.discard(id)
                if row.ok and self.oracle.paused_since is None:
                    self.oracle.paused_since = self.loop.time()
                return
            await asyncio.sleep(2.0)

    def now_ms(self) -> int:
        return START_MS + round(self.loop.time() * 1000)

    # ── what the network sees ────────────────────────────────────────────────────────────────────

    def _on_answer(self, owner: Owner | None, request: httpx.Request, seconds: float) -> None:
        if not isinstance(owner, Process) or owner.frozen_for >= 1.0:
            return
        if seconds > CALL_LIMIT:
            self.oracle.faults.append(f"{_what(request)} was waited for {seconds:.0f} s")
        if seconds > START_LIMIT and not owner.has_started and not owner.stopping:
            self.oracle.faults.append(f"{owner.name} waits for {_what(request)} to start")

    def _on_arrival(self, owner: Owner | None, request: httpx.Request, late: bool) -> None:
        if late and request.url.path.endswith("event-bulk-create-jobs"):
            self._late_events += request.content.count(b'"unique_id"')
        if isinstance(owner, Process):
            self.traps.meet(owner, "carried out", _what(request))

    def _on_send(self, owner: Owner | None, request: httpx.Request) -> None:
        if isinstance(owner, Process):
            self.traps.meet(owner, "sent", _what(request))
        if self.traces and isinstance(owner, Process):
            self.note(f"    {owner.name} sends {_what(request)} {self._written(request)}")
        if request.url.port == KLAVIYO_PORT:
            self._check_rate(owner, request)
        if request.method == "GET" or request.url.path.startswith("/oauth"):
            return
        assert isinstance(owner, Process)
        self._check_lease(owner, request)
        self._check_approval(owner, request)
        self._check_unset(owner, request)
        self._check_live_share(request)
        paused = self.oracle.paused_since
        is_lane = request.url.path != "/api/lists"
        if is_lane and paused is not None and self.loop.time() > paused + PAUSE_GRACE:
            self.oracle.faults.append(f"{owner.name} sent {_what(request)} while paused")
        if request.method == "DELETE":
            people = self.klaviyo.profiles_by_id
            removed = {people[p["id"]]["email"] for p in orjson.loads(request.content)["data"]}
            self._check_removal(owner, removed)

    def _check_rate(self, owner: Owner | None, request: httpx.Request) -> None:
        route = operation(request.method, request.url.path.rstrip("/")).label
        share = self.config.connection("acme").klaviyo.rate_share
        if route not in LIMITS or route == GET_ACCOUNTS:
            return  # which account it is counted for is not known before
        if request.method == "GET" and isinstance(owner, Process) and not self._has_lease(owner):
            return  # a read of one that was frozen and has not noticed yet
        sent, now = self._sent_at[route], self.loop.time()
        sent.append(now)
        while sent[0] <= now - RATE_WINDOW:
            sent.popleft()
        if len(sent) > max(1, math.floor(LIMITS[route].steady * share)):
            self.oracle.faults.append(f"{len(sent)} requests {route} in {RATE_WINDOW:.0f} s")

    def _check_lease(self, owner: Process, request: httpx.Request) -> None:
        if not self._has_lease(owner):
            self.oracle.faults.append(f"{owner.name} sent {_what(request)} without the lease")

    def _has_lease(self, owner: Process) -> bool:
        """That of the account, or of the connection before the account is known."""
        newest = {Fence(*row) for row in self.disk.rows(_LEASES) if row.resource != STORE_RESOURCE}
        return any(lease.acquired in newest for lease in owner.app.leases.held())

    def _on_change(self, request: httpx.Request, change: int) -> None:
        """No two writes of one profile or membership are under way at once."""
        if self.traces:
            self.note(f"    {'leaves' if change > 0 else 'is carried out'}: {_what(request)}")
        for what in self._written(request):
            self._writing[what] += change
            if change > 0 and self._writing[what] > 1:
                self.oracle.faults.append(f"two writes of {what} under way: {_what(request)}")
        bulk = request.url.path.startswith("/api/profile-bulk-import-jobs")
        # A late single write counts when it arrives. A list join carries no field.
        if (change > 0) is bulk:
            waiting = [job for job in self.klaviyo.jobs.open() if not job.lists]
            for kind, email in self._written(request):
                if kind == "profile" and any(email in job.identifiers for job in waiting):
                    self.oracle.faults.append(f"{_what(request)} of {email} crosses a job")

    def _written(self, request: httpx.Request) -> list[tuple[str, str]]:
        path = request.url.path
        if request.method == "GET" or not path.startswith(("/api/profile", "/api/lists/")):
            return []
        data = orjson.loads(request.content)["data"]
        people = self.klaviyo.profiles_by_id
        if request.method == "DELETE":
            return [("list", people[p["id"]]["email"]) for p in data if p["id"] in people]
        if path.startswith("/api/profiles/"):
            return [("profile", people[path.rsplit("/", 1)[1]]["email"])]
        if path == "/api/profile-import":
            return [("profile", data["attributes"]["email"])]
        kind = "list" if "relationships" in data else "profile"
        found = data["attributes"]["profiles"]["data"]
        return [(kind, profile["attributes"]["email"]) for profile in found]

    # ── what must hold in the end ────────────────────────────────────────────────────────────────

    def waiting(self) -> list[str]:
        """Rows that are ready or claimed. Where a module is off in the end, what is ready stays so,
        and what is claimed holds up other modules."""
        found = []
        off = _OF_MODULE.get(self.ends_without or "", ())
        for table, key in _QUEUES:
            for row in self.disk.rows((_CLAIMED if table in off else _WAITING)[table]):
                late = (row.due - self.now_ms()) / 1000
                found.append(
                    f"{table.name} {getattr(row, key)} is {State(row.state).name}, due in {late} s,"
                    f" {row.problem} {row.detail}"
                )
        return found

    async def watch(self) -> None:
        """Notice what is claimed for too long, and stops that do not end."""
        while True:
            await asyncio.sleep(30.0)
            now = self.loop.time()
            claimed = {
                (table.name, getattr(row, key), row.claim, getattr(row, "receipt", None))
                for table, key in _QUEUES
                for row in self.disk.rows(_CLAIMED[table])
            }
            since = self._claimed_since
            self._claimed_since = {row: since.get(row, now) for row in claimed}
            for row, at in self._claimed_since.items():
                if now - at > CLAIM_LIMIT:
                    self.oracle.faults.append(f"{row[0]} {row[1]} is claimed for {now - at:.0f} s")
            for process in self.processes:
                if process.stop_lasts > STOP_LIMIT:
                    self.oracle.faults.append(f"{process.name} does not stop")

    def _check_lanes(self) -> None:
        """Too few records die here for a lane to be held because of it: strangers do not count."""
        for row in self.disk.rows(_HELD_LANES):
            self.oracle.faults.append(f"the lane {row.kind} is held: {row.detail}")

    def _check_approval(self, owner: Process, request: httpx.Request) -> None:
        """Guarantee 9: the first sync of a list that starts a flow needs approval."""
        if self.flow_list is None or not any(k == "list" for k, _ in self._written(request)):
            return
        if not self.oracle.first_sync_approved:
            self.oracle.faults.append(f"{owner.name} writes to the list without approval")

    def _check_removal(self, owner: Owner, removed: set[str]) -> None:
        """Guarantee 6: a scan that would remove many removes no one before a person approves."""
        removal = self.removal
        removal.done |= removed & removal.people.keys()
        if not removal.approved and len(removal.done) > removal.most:
            self.oracle.faults.append(
                f"{owner.name} removes {len(removal.done)} people from the list without approval"
            )
        wrong = removed & self.anchors
        if wrong and not (removal.cut and removal.approved):
            self.oracle.faults.append(f"{owner.name} removes {wrong} from the list")

    def _check_unset(self, owner: Process, request: httpx.Request) -> None:
        """Guarantee 9: few lose a field before a person has approved. What was claimed when they
        became too many is still sent."""
        unset = self.unset
        written = {email for kind, email in self._written(request) if kind == "profile"}
        if not unset.people or not written:
            return
        if BIRTHDATE in _unset_fields(request):
            unset.done |= written & unset.people
        unset.writes += len(written) if unset.done else 0
        most = max(UNSET_FLOOR, DEFAULT_SHARE * unset.writes) + PROFILES_AT_ONCE
        if unset.asks and not unset.approved and len(unset.done) > most:
            self.oracle.faults.append(
                f"{owner.name} removes {BIRTHDATE} from {len(unset.done)} people without approval"
            )

    def _check_live_share(self, request: httpx.Request) -> None:
        """Guarantee 9: a backfill leaves the reserved part of every quota to live traffic."""
        route = operation(request.method, request.url.path.rstrip("/")).label
        written = [email for kind, email in self._written(request) if kind == "profile"]
        if not written or not self.quiet.keys() - self._named >= set(written):
            return
        klaviyo = self.config.connection("acme").klaviyo
        ours = max(1, math.floor(LIMITS[route].steady * klaviyo.rate_share))
        most = max(1, math.floor(ours * (1 - klaviyo.live_reserve)))
        sent, now = self._sent_at[f"{route} of a backfill"], self.loop.time()
        sent.append(now)
        while sent[0] <= now - RATE_WINDOW:
            sent.popleft()
        if len(sent) > most:
            self.oracle.faults.append(f"a backfill sent {len(sent)} of {most} requests {route}")

    def _check_bodies(self) -> None:
        """Guarantee 1: retention leaves what waits as it is."""
        for row in self.disk.rows(_EMPTIED):
            self.oracle.faults.append(f"retention emptied {row.unique_id}, which waits")

    def open_commands(self) -> list[str]:
        rows = self.disk.rows(_OPEN_COMMANDS)
        return [f"command {row.id} {row.kind} has no result" for row in rows]

    def at_rest(self) -> Process | None:
        """The process that delivers, where nothing waits and no one has stopped anything."""
        holder, config = self.holder(), self.config.connection("acme")
        if any(p.condition != "running" or p.stopping for p in self.alive()) or holder is None:
            return None
        changed = config.mode != "live" or config.modules != MODULES
        if changed or any(process.app.config is not self.config for process in self.alive()):
            return None
        paused = self._pauses or self.oracle.paused_since is not None
        return None if paused or self.unfinished() else holder

    def expect_soon(self, sent: Sent, user: User) -> None:
        """Guarantee 9: nothing holds up this event, or what it has changed in the person's profile,
        for longer than LIVE_LIMIT, whatever else there is to send."""
        self.loop.spawn(None, self._expect(sent, user))

    async def _expect(self, sent: Sent, user: User) -> None:
        holder, since = self.holder(), self.loop.time()
        while self.loop.time() < since + LIVE_LIMIT:
            await asyncio.sleep(1.0)
            if sent.id in self.klaviyo.unique_ids() and not self._differences([user]):
                return
        if sent.acknowledged and self.holder() is holder:
            late = "the profile of" if sent.id in self.klaviyo.unique_ids() else "an event of"
            self.oracle.faults.append(f"{late} {user.email} waits for {LIVE_LIMIT:.0f} s")

    def repeat_failed_commands(self) -> None:
        """As a person does who has read the error; each once."""
        for row in self.disk.rows(_FAILED):
            if row.id not in self._repeated:
                self._repeated.add(row.id)
                self.command(row.kind, **orjson.loads(row.args))

    def unfinished(self) -> list[str]:
        """What was wrong at once, and what has not ended yet."""
        return [*self.oracle.faults, *self.waiting(), *self.open_commands()]

    def faults(self) -> list[str]:
        found = self.unfinished()
        found += [f"{p.name} ended: {p.ended}" for p in self.processes if p.crashed]
        found += self._lost_events() + self._wrong_actions() + self._traces()
        if self.ends_without != "profiles":
            found += self._wrong_profiles() + self._wrong_backfills() + self._kept_fields()
        if self.ends_without != "audiences":
            found += self._wrong_list()
        # Klaviyo refuses a job that comes after its events were sent again singly: none is doubled.
        refused = Counter(unique_id_recorded=self._late_events)
        for sandbox in (self.klaviyo, self.wll):
            if violations := sandbox.violations - refused:
                found.append(f"violations: {dict(violations)}")
        return found

    def _lost_events(self) -> list[str]:
        """Guarantees 1 and 3."""
        rows = {row.unique_id: row for row in self.disk.rows(_ALL[outbox])}
        recorded = self.klaviyo.unique_ids()
        found = [f"{id} is at Klaviyo {n} times" for id, n in recorded.items() if n != 1]
        erased = {id for id, who in self.oracle.events_of.items() if who in self.oracle.forgotten}
        unknown = recorded.keys() - rows - erased
        found += [f"{id} is at Klaviyo and not in the store" for id in unknown]
        for id in self.oracle.events:
            row = rows.get(id)
            if id in erased or (row is not None and row.state == State.DISCARDED):
                continue
            if row is None:
                found.append(f"acknowledged event {id} is not in the store")
            elif row.state == State.SKIPPED and row.detail == "shadow":
                if id not in self.oracle.shadow:
                    found.append(f"event {id} was skipped as shadow, and received live")
            elif self._waits_to_be_read(row) or (
                row.state == State.SKIPPED and id in self.oracle.disabled
            ):
                continue
            elif row.state != State.ACCEPTED:
                state = State(row.state).name
                found.append(f"event {id} ended as {state} {row.problem} {row.detail}")
            elif id not in recorded:
                found.append(f"event {id} is accepted and not at Klaviyo")
        return found

    def _wrong_actions(self) -> list[str]:
        """Guarantees 1 and 4."""
        rows = {orjson.loads(row.data)["reason"]: row for row in self.disk.rows(_ALL[actions])}
        found = [f"acknowledged {reason} is lost" for reason in self.oracle.actions.keys() - rows]
        for reason, row in rows.items():
            applied = self.wll.adjusted(row.ref)
            state = State(row.state)
            if state is State.SKIPPED and row.detail == "shadow" and reason in self.oracle.shadow:
                continue
            uncertain = state is State.HELD and row.problem == Problem.ACTION_UNCERTAIN
            expected = {0, 1} if uncertain else {int(state is State.ACCEPTED)}
            if applied not in expected:
                found.append(f"{reason} is {state.name} and was applied {applied} times")
            refused = state is State.DISCARDED and row.decided_by is not None
            refused |= reason in self.oracle.strangers and (state, row.problem) == _UNKNOWN
            refused |= self._waits_to_be_read(row)
            if state is not State.ACCEPTED and not uncertain and not refused:
                found.append(f"{reason} ended as {state.name} {row.problem} {row.detail}")
        return found

    def _waits_to_be_read(self, row: Any) -> bool:
        """WLL's webhooks have no address, and without profiles no one is read."""
        unknown = row.problem in (Problem.NO_IDENTITY, Problem.ACTION_PERSON)
        return self.ends_without == "profiles" and row.state == State.HELD and unknown

    def _wrong_profiles(self) -> list[str]:
        """Guarantee 5."""
        return self._differences(self.users)

    def _differences(self, users: Iterable[User]) -> list[str]:
        found = []
        for user in users:
            if user.email in self.oracle.forgotten:
                continue
            properties = self._properties(user.email)
            wanted = {"wll_balance": user.points, "wll_tier_name": user.tier[0]}
            remote = {name: properties.get(name) for name in wanted}
            if remote != wanted:
                found.append(f"{user.email}: Klaviyo {remote}, platform {wanted}")
        return found

    def _properties(self, email: str) -> dict[str, Any]:
        profile = self.klaviyo.profile(email)
        return dict(profile["properties"]) if profile else {}

    def _wrong_backfills(self) -> list[str]:
        """Guarantee 9: a run ends, and has reached everyone when it is done."""
        runs = self.disk.rows(_ALL[backfills])
        found = [f"backfill {run.id} is running" for run in runs if run.state == "running"]
        if any(run.state == "done" and run.started_at > self._quiet_since for run in runs):
            found += self._differences(self.quiet.values())
        return found

    def _kept_fields(self) -> list[str]:
        """Guarantee 9: what a person approved is done, and what needed no approval."""
        unset = self.unset
        if unset.rejected:
            return []
        kept = [e for e in sorted(unset.people) if self._properties(e).get(BIRTHDATE) is not None]
        return [f"{BIRTHDATE} of {kept} is at Klaviyo"] if kept else []

    def _traces(self) -> list[str]:
        """Guarantee 8: what an erasure has left of a person. Klaviyo's copy is another command."""
        found = []
        for user in self.oracle.forgotten.values():
            for table in metadata.sorted_tables:
                for row in self.disk.rows(_ALL[table]):
                    texts = [str(value) for value in row]
                    if any(name in text for text in texts for name in (user.email, user.auth)):
                        found.append(f"{table.name} still names {user.email}: {texts}")
        return found

    def _wrong_list(self) -> list[str]:
        """Guarantees 5 and 6."""
        members = self.members()
        people = [*self.users, *self.removal.people.values()]
        wanted = {user.email for user in people if user.tier[0] == AUDIENCE}
        # Who has left stays on the list while a rejection says so.
        refused = any(what == REMOVAL for _, what in self.approvals("rejected"))
        if members == wanted or (refused and members > wanted):
            return []
        return [f"the list has {members}, the audience {wanted}"]

    def members(self) -> set[str]:
        """Addresses of those on Klaviyo's list."""
        # A process that died while it created the list may have created another one.
        ids = [row.remote_id for row in self.disk.rows(_LINKED)]
        return {email for id in ids for email in self.klaviyo.list_members(id)}

    def audience(self) -> Tier:
        return next(
            tier
            for tier in self.wll.audiences.values()
            if isinstance(tier, Tier) and tier.name == AUDIENCE
        )

    def explain(self) -> str:
        rows = []
        for table, _ in _QUEUES:
            rows += [f"{table.name} {row._asdict()}" for row in self.disk.rows(_ALL[table])]
        return "\n".join([*self.lines, "", *rows])


async def _delivered(sent: Sent, process: Process) -> None:
    try:
        await sent.deliver(process)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        sent.name = sent.name.partition(" !")[0] + f" ! {error!r}"


def _what(request: httpx.Request) -> str:
    return f"{request.method} {request.url.path}"


def _unset_fields(request: httpx.Request) -> list[str]:
    """The fields that a single write of a profile removes."""
    data = orjson.loads(request.content)["data"]
    if isinstance(data, list):
        return []
    unset: list[str] = data.get("meta", {}).get("patch_properties", {}).get("unset", [])
    return unset
