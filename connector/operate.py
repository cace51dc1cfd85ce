"""What a person can ask or order. CLI, API and console all call this and hold no logic.

Questions are answered from the store, so they work beside a running daemon and without one.
Orders are rows: whoever holds the store's lease carries them out.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from connector import log
from connector.actions.door import FlowDoor
from connector.audiences import view
from connector.dispatch import Dispatcher
from connector.errors import ConfigError, ConnectorError, Problem, StoreError
from connector.intake import Door
from connector.lease import STORE, is_gone
from connector.model import Added, Asked, Check, Conflict, Lane, LaneState, Need, Origin, State
from connector.ports import (
    Approval,
    Backfill,
    Backlog,
    Clock,
    Decision,
    Deed,
    Letter,
    Order,
    PersonState,
    Queue,
    Store,
    Stored,
)
from connector.refresh import Refresher
from connector.states import digest

KLAVIYO = "klaviyo"
_TOLD = {Problem.ACTION_UNCERTAIN, Problem.ACTION_PERSON}
"""Why actions wait for a person; what a cap holds is a question of its own."""
_SHOWN = 10
QUIET = {Problem.PAUSED}
"""Stops that a person made on purpose: no news to anybody."""


Handler = Callable[[Mapping[str, Any]], Awaitable[tuple[bool, Mapping[str, Any]]]]
"""Carries out one kind of order: (whether it was done, what it came to or why not)."""


@dataclass(slots=True)
class Line:
    """A connection as it runs: its doors for webhooks and flows, its lanes, what runs beside them.

    `mapping` is the version in use, `account` Klaviyo's id where it could be read. `more` are
    lanes besides events, reads and writes; `loops` run for ever beside the lanes; `idle` say
    whether those have nothing to do; `needs` what a person must look at; `orders` which orders
    this line carries out, for those that name its connection, of which `errands` take their time
    and hold up no other; `decided` is told of every answer
    to a question that this connection asked. `act` stores actions for the platform, None where it
    takes none."""

    name: str
    title: str
    enabled: bool
    mapping: str
    account: str | None
    checks: list[Callable[[], Awaitable[Sequence[Check]]]]
    close: list[Callable[[], Awaitable[None]]]
    events: Dispatcher[Any] = field(init=False)
    door: Door | None = None
    flows: FlowDoor | None = None
    reads: Dispatcher[Any] | None = None
    writes: Dispatcher[Any] | None = None
    refresher: Refresher | None = None
    renews: Callable[[str], bool] = lambda name: False
    by_id: bool = False
    more: list[Dispatcher[Any]] = field(default_factory=list)
    loops: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    idle: list[Callable[[], Awaitable[bool]]] = field(default_factory=list)
    needs: list[Callable[[], Awaitable[Sequence[Need]]]] = field(default_factory=list)
    orders: dict[str, Handler] = field(default_factory=dict)
    errands: set[str] = field(default_factory=set)
    act: Callable[[Origin, Sequence[Asked]], Awaitable[Added | Conflict]] | None = None
    decided: list[Callable[[Approval], None]] = field(default_factory=list)

    async def aclose(self) -> None:
        for close in self.close:
            await close()

    @property
    def dispatchers(self) -> list[Dispatcher[Any]]:
        found = (self.reads, self.events, self.writes, *self.more)
        return [dispatcher for dispatcher in found if dispatcher is not None]


class Operator:
    """Questions and orders. `lines` is empty where nothing runs in this process."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        lines: Mapping[str, Line] | None = None,
        reload: Callable[[], Awaitable[Mapping[str, Any]]] | None = None,
        trouble: Callable[[], list[str]] = list,
    ) -> None:
        self._store = store
        self._clock = clock
        self._lines: Mapping[str, Line] = lines if lines is not None else {}
        self._reload = reload
        self._trouble = trouble
        self._errands: set[asyncio.Task[None]] = set()
        self._log = log.get("operate")

    # ── questions ────────────────────────────────────────────────────────────────────────────────

    async def holder(self) -> str | None:
        """Who runs on this store now, if anybody does."""
        held = await self._store.leases.holder(STORE)
        if held is None or held.expires_at <= self._clock.now() or is_gone(held.holder):
            return None
        return held.holder

    async def status(self, mappings: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Connections, lanes, backlog, lag, dead letters and quota; ages in seconds.

        With `mappings` (connection → version in use) it also tells how many people were rendered
        with another version: a changed mapping re-sends nobody by itself.
        """
        now = self._clock.now()
        connections: dict[str, dict[str, Any]] = {}
        backlogs = await self._store.insight.backlog()
        for backlog in backlogs:
            connection = connections.setdefault(
                backlog.lane.connection, {"lanes": [], "streams": []}
            )
            connection["lanes"].append(_lane(backlog, now))
            if backlog.lane.kind == "action":
                connection["actions"] = await self._pace(backlog.lane)
            version = (mappings or {}).get(backlog.lane.connection)
            if version and backlog.lane.kind == "profile" and backlog.lane.destination == KLAVIYO:
                older = await self._store.profiles.outdated(backlog.lane.id, version)
                connection["people_with_another_mapping"] = older
        for name, stream, _, saved_at in await self._store.insight.streams():
            connections.setdefault(name, {"lanes": [], "streams": []})["streams"].append(
                {"stream": stream, "checkpoint_age": (now - saved_at) / 1000}
            )
        for link in await self.links():
            about = connections.setdefault(link["connection"], {"lanes": [], "streams": []})
            about.setdefault(f"{link['kind']}s", []).append(link)
        groups = await self._store.dead_letters.groups()
        return {
            "holder": await self.holder(),
            "connections": connections,
            "letters": [
                {
                    "connection": connection,
                    "state": state.name.lower(),
                    "problem": problem,
                    "meaning": Problem.of(problem).meaning if problem else "",
                    "count": count,
                }
                for connection, state, problem, count in groups
            ],
            "quota": await self._quota(now),
            "backfills": [run for run in await self.backfills() if run["ended_at"] is None],
            "approvals": [
                {
                    "id": asked.id,
                    "connection": asked.connection,
                    "what": asked.what,
                    "subject": asked.subject,
                    "detail": asked.detail,
                    "since": asked.asked_at,
                }
                for asked in await self._store.approvals.find()
            ],
            "needs_you": await self.needs_you(backlogs),
        }

    async def _pace(self, lane: Lane) -> dict[str, Any]:
        """How many wait to be sent, and how long it takes at the pace of the last minute."""
        pace = await self._store.actions.pace(lane.id, now=self._clock.now())
        return {
            "waiting": pace.waiting,
            "per_second": round(pace.per_second, 2),
            "eta_seconds": pace.waiting / pace.per_second if pace.per_second else None,
        }

    async def deeds(self, connection: str | None, stuck: bool, limit: int) -> Sequence[Deed]:
        """Adjustments and pushes, those that wait for a person first."""
        return await self._store.actions.find(connection=connection, stuck=stuck, limit=limit)

    async def links(self) -> list[dict[str, Any]]:
        """What is kept as what, and how that stands."""
        return await view.links(self._store.memberships, self._clock.now())

    async def letters(
        self, problem: str | None, connection: str | None, limit: int
    ) -> Sequence[Letter]:
        return await self._store.dead_letters.find(
            problem=problem, connection=connection, limit=limit
        )

    async def letter(self, id: int) -> Stored | None:
        return await self._store.dead_letters.show(id)

    async def explain(self, connection: str, who: str) -> list[dict[str, Any]]:
        """Everybody of this connection with this address or platform id: what came in, what it
        became, which request carried it, what the far end answered."""
        found = await self._store.insight.people(connection, who)
        return [_story(await self._store.insight.person(id, _TIMELINE)) for id in found]

    async def backfills(self, connection: str | None = None) -> list[dict[str, Any]]:
        """Runs, the newest first: where they stand and what they came to. Ages in ms since 1970."""
        lanes = [lane for lane, _ in await self._store.lanes.all() if lane.kind == "profile"]
        found = []
        for run in await self._store.backfills.find(connection):
            waiting = (0, 0)
            if run.state == "running":
                mine = [lane for lane in lanes if lane.connection == run.connection]
                [writes] = [lane.id for lane in mine if lane.destination == KLAVIYO]
                [reads] = [lane.id for lane in mine if lane.destination != KLAVIYO]
                waiting = await self._store.backfills.outstanding(reads, writes, limit=_COUNTED)
            found.append(_run(run, waiting))
        return found

    async def backfill(self, id: int) -> dict[str, Any]:
        """One run whole: one that ended before its time is counted now."""
        run = await self._store.backfills.get(id)
        if run is None:
            raise KeyError(id)
        if run.state not in ("stopped", "failed") or run.args.get("dry_run"):
            [found] = [x for x in await self.backfills(run.connection) if x["id"] == id]
            return found
        tally = await self._store.backfills.tally(id)
        return _run(replace(run, counts={**run.counts, **tally}), (0, 0))

    async def _quota(self, now: int) -> list[dict[str, Any]]:
        spent: dict[tuple[str, str], int] = {}
        for spend in await self._store.memory.spent(since_second=now // 1000 - 60):
            key = (spend.account, spend.endpoint)
            spent[key] = spent.get(key, 0) + spend.count
        return [
            {"account": account, "endpoint": endpoint, "last_minute": count}
            for (account, endpoint), count in sorted(spent.items())
        ]

    async def needs_you(self, backlogs: Sequence[Backlog] | None = None) -> list[str]:
        """One line per thing that a person must look at; empty when all is well."""
        return [need.text for need in await self.needs(backlogs)]

    async def needs(self, backlogs: Sequence[Backlog] | None = None) -> list[Need]:
        """The same, each with the key by which it is known again."""
        found = [Need(f"trouble {line.split(':')[0]}", line) for line in self._trouble()]
        found += await self._seen_here()
        for b in backlogs if backlogs is not None else await self._store.insight.backlog():
            road = f"{b.lane.connection} → {b.lane.destination} {b.lane.kind}s"
            if b.state.mode != "running" and b.state.problem not in QUIET:
                text = f"{b.state.problem} {road}: {b.state.mode}, {b.state.detail}"
                found.append(Need(f"lane {road}", text))
            if b.lane.kind == "action":
                found += await self._actions_need(b)
            elif b.dead and b.lane.kind == "profile":
                again = "the next change, or `connector refresh`, tries again"
                found.append(Need(f"dead {road}", f"{road}: {b.dead} refused; {again}"))
            elif b.dead and b.lane.kind == "membership":
                which = "audiences" if b.lane.destination == KLAVIYO else "segments"
                text = f"{road}: {b.dead} refused; `connector {which} sync` tries again"
                found.append(Need(f"dead {road}", text))
            elif b.dead:
                text = f"{road}: {b.dead} dead letters (connector dead-letters list)"
                found.append(Need(f"dead {road}", text))
        for asked in await self._store.approvals.find():
            text = (
                f"{asked.connection}: {asked.what} of {asked.subject} waits for a person "
                f"(connector approvals approve {asked.id})"
            )
            found.append(Need(f"approval {asked.id}", text))
        known = {need.key for need in found}
        found += [n for n in await view.needs(self._store.memberships) if n.key not in known]
        return found

    async def _actions_need(self, b: Backlog) -> list[Need]:
        """Adjustments and pushes that only a person can settle, by their numbers."""
        name, found = b.lane.connection, []
        if b.dead:
            text = f"{name}: {b.dead} actions refused by the platform (connector actions list)"
            found.append(Need(f"dead {name} actions", text))
        stuck: dict[str, list[int]] = {}
        for deed in await self._store.actions.find(connection=name, stuck=True) if b.held else ():
            if deed.problem in _TOLD and deed.settled_at is not None:
                stuck.setdefault(deed.problem, []).append(deed.id)
        for code, ids in sorted(stuck.items()):
            shown = ", ".join(map(str, sorted(ids)[:_SHOWN])) + (" …" if len(ids) > _SHOWN else "")
            text = (
                f"{code} {name}: {Problem.of(code).meaning}: {shown} (connector actions list; "
                "then applied, again or refuse)"
            )
            found.append(Need(f"{code} {name}", text))
        return found

    async def _seen_here(self) -> list[Need]:
        """What only the process that runs the lanes can know."""
        found: list[Need] = []
        for line in self._lines.values():
            for d in line.dispatchers:
                if d.trouble:
                    road = f"{line.name} {d.lane.kind}s, {d.lane.destination}"
                    text = f"{d.trouble} {road}: {d.trouble.meaning}; going slowly"
                    found.append(Need(f"slow {road}", text))
            for needs in line.needs:
                found += await needs()
        return found

    # ── orders ───────────────────────────────────────────────────────────────────────────────────

    async def place(self, kind: str, args: Mapping[str, Any], *, by: str) -> int:
        return await self._store.orders.place(kind, args, by=by, now=self._clock.now())

    async def order(self, id: int) -> Order | None:
        return await self._store.orders.get(id)

    async def carry_out_all(self) -> None:
        """Take every open order and carry it out; each gets its answer, whatever happens."""
        for order in await self._store.orders.take(now=self._clock.now()):
            line = self._lines.get(str(order.args.get("connection", "")))
            if line and order.kind in line.errands:
                errand = asyncio.create_task(self._finish(order))
                self._errands.add(errand)
                errand.add_done_callback(self._errands.discard)
            else:
                await self._finish(order)

    async def _finish(self, order: Order) -> None:
        ok, result = await self.carry_out(order.kind, order.args)
        await self._store.orders.finish(order.id, ok=ok, result=result, now=self._clock.now())

    async def stop(self) -> None:
        """Errands are cut off: their orders are carried out after the next start."""
        for errand in (errands := list(self._errands)):
            errand.cancel()
        await asyncio.gather(*errands, return_exceptions=True)

    async def carry_out(self, kind: str, args: Mapping[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """(whether it was done, what it came to or why not)."""
        self._log.info("order", order=kind)
        try:
            match kind:
                case "pause" | "resume":
                    return await self._switch(kind, args["connection"])
                case "refresh":
                    return await self._read_again(args["connection"], args["person"])
                case "retry":
                    return True, await self._retry(args)
                case "discard":
                    reason = args.get("reason") or "discarded by a person"
                    count = await self._store.dead_letters.discard(
                        args["ids"], reason=reason, now=self._clock.now()
                    )
                    return True, {"discarded": count}
                case "reload" if self._reload:
                    return True, await self._reload()
                case "reload":
                    return False, {"error": "no daemon runs on this store, so nothing to reload"}
                case "applied" | "again" | "refuse":
                    return await self._of_action(kind, args)
                case "forget" | "lift":
                    return await self._forget(kind, args)
                case "approve" | "reject":
                    return await self._decide(args["id"], kind == "approve", args.get("by", ""))
                case _:
                    return await self._by_line(kind, args)
        except ConfigError as error:
            self._log.error("order refused", order=kind, faults=list(error.faults))
            return False, {"error": str(error), "faults": list(error.faults)}
        except ConnectorError as error:
            self._log.error("order failed", order=kind, problem=error.problem.value)
            return False, {"error": str(error)}
        except Exception as error:
            # A fault of ours must neither end the loop nor leave the order without its answer.
            self._log.exception("order failed", order=kind)
            return False, {"error": f"{type(error).__name__}, see the log"}

    async def _by_line(self, kind: str, args: Mapping[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Orders of a connection's own parts."""
        name = str(args.get("connection", ""))
        line = self._lines.get(name)
        if line is None:
            return False, {"error": f"no connection `{name}` runs here"}
        if kind not in line.orders:
            return False, {"error": f"{name} does not carry out `{kind}`"}
        return await line.orders[kind](args)

    async def _of_action(
        self, word: Decision, args: Mapping[str, Any]
    ) -> tuple[bool, Mapping[str, Any]]:
        """A person says what became of an action, or what shall."""
        now = self._clock.now()
        deed = await self._store.actions.decide(args["id"], word, by=args.get("by", ""), now=now)
        if isinstance(deed, str):
            return False, {"error": deed}
        line = self._lines.get(deed.connection)
        for dispatcher in line.dispatchers if line else ():
            if dispatcher.lane.kind == "action":
                dispatcher.wake()
        return True, {f"action {deed.id}": deed.state}

    async def _decide(self, id: int, approved: bool, by: str) -> tuple[bool, Mapping[str, Any]]:
        now = self._clock.now()
        answer = await self._store.approvals.decide(id, approved=approved, by=by, now=now)
        if answer is None:
            return False, {"error": f"no open question has the number {id}"}
        line = self._lines.get(answer.connection)
        for told in line.decided if line else ():
            told(answer)
        return True, {answer.state: f"{answer.what} of {answer.subject}"}

    async def _read_again(self, connection: str, who: str) -> tuple[bool, Mapping[str, Any]]:
        line = self._lines.get(connection)
        if line is None or line.reads is None:
            return False, {"error": "only a running daemon that reads people can refresh one"}
        found = await self._store.insight.people(connection, who)
        if not found:
            return False, {"error": f"{connection} has never seen this person"}
        now = self._clock.now()
        await self._store.reads.ask(line.reads.lane.id, dict.fromkeys(found, now), first=True)
        line.reads.wake()
        return True, {"asked": len(found), "since": now}

    async def whom(self, connection: str, who: str) -> int:
        """How many people `forget` would erase."""
        return (await self._store.erasure.find(connection, who)).people

    async def _forget(self, kind: str, args: Mapping[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Klaviyo is asked first: once a person is forgotten here, nobody knows whom to name."""
        connection, who = args["connection"], args["person"]
        if kind == "lift":
            if await self._store.erasure.lift(connection, who):
                return True, {"lifted": connection}
            return False, {"error": f"{connection} has not forgotten anybody of this name"}
        found = await self._store.erasure.find(connection, who)
        if not found.people:
            return False, {"error": f"{connection} has never seen this person"}
        said: Mapping[str, Any] = {}
        if args.get("klaviyo"):
            asked = {"connection": connection, "emails": found.emails}
            done, said = await self._by_line("erase", asked)
            if not done:
                return False, {"error": f"nothing was erased here: {said['error']}"}
        gone = await self._store.erasure.forget(connection, who, now=self._clock.now())
        return True, {"forgotten": gone.people, "rows": gone.rows, **said}

    async def _switch(self, kind: str, connection: str) -> tuple[bool, Mapping[str, Any]]:
        lanes = [(x, s) for x, s in await self._store.lanes.all() if x.connection == connection]
        if not lanes:
            return False, {"error": f"no connection `{connection}` has run on this store"}
        line = self._lines.get(connection)
        for lane, state in lanes:
            running = [d for d in line.dispatchers if d.lane.id == lane.id] if line else []
            if line and running:
                await self._switch_running(kind, line, running[0])
            else:
                await self._switch_stored(kind, lane, state)
        return True, {f"{kind}d": connection}

    async def _switch_running(self, kind: str, line: Line, dispatcher: Dispatcher[Any]) -> None:
        if kind == "pause":
            await dispatcher.pause()
            return
        if dispatcher.state.problem is Problem.KLAVIYO_ACCOUNT and line.account:
            await self._store.memory.pin_account(line.name, line.account, anew=True)
            now = self._clock.now()
            if dispatcher.lane.kind == "profile":
                await self._store.profiles.start_anew(dispatcher.lane.id, now=now)
            elif dispatcher.lane.kind == "event":
                await self._store.memberships.forget_account(line.name, now=now)
        await dispatcher.resume()

    async def _switch_stored(self, kind: str, lane: Lane, state: LaneState) -> None:
        now = self._clock.now()
        if state.problem is Problem.KLAVIYO_ACCOUNT:
            raise StoreError(
                Problem.KLAVIYO_ACCOUNT, f"{state.detail} (only while the daemon runs)"
            )
        if state.mode != "running":
            await self._queue_of(lane).extend(lane.id, now - state.since)
        if kind == "pause":
            await self._store.lanes.set_state(lane.id, LaneState("paused", Problem.PAUSED, "", now))
        elif state.mode != "running":
            await self._store.lanes.set_state(lane.id, LaneState("running", None, "", now))

    def _queue_of(self, lane: Lane) -> Queue:
        if lane.kind == "action":
            return self._store.actions
        if lane.kind == "membership":
            return self._store.memberships
        if lane.kind != "profile":
            return self._store
        return self._store.profiles if lane.destination == KLAVIYO else self._store.reads

    async def _retry(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        ids, cause = args.get("ids") or (), args.get("cause")
        count = await self._store.dead_letters.retry(
            ids=ids, problem=cause, every=bool(args.get("all")), now=self._clock.now()
        )
        # Whatever is held now has no address: a retry takes every other.
        waiting = await (self._held_of(ids) if ids else self._held_by(cause))
        for line in self._lines.values():
            for dispatcher in line.dispatchers:
                dispatcher.probe_now()
        return {"retried": count, "waiting_for_an_address": waiting}

    async def _held_of(self, ids: Sequence[int]) -> int:
        found = [await self._store.dead_letters.show(id) for id in ids]
        return sum(x is not None and x.letter.state == State.HELD for x in found)

    async def _held_by(self, cause: str | None) -> int:
        groups = await self._store.dead_letters.groups()
        return sum(
            count
            for _, state, problem, count in groups
            if state == State.HELD and cause in (None, problem)
        )


_TIMELINE = 50
_COUNTED = 100_000
_ENDS = ("sent", "unchanged", "held", "invalid", "unknown", "dead", "pending")
_REHEARSED = ("would_send", "unchanged", "held", "invalid", "unknown", "dead", "new_to_klaviyo")


def _run(run: Backfill, waiting: tuple[int, int]) -> dict[str, Any]:
    counts, dry = Counter(run.counts), bool(run.args.get("dry_run"))
    rows = counts["rows"]
    return {
        "id": run.id,
        "connection": run.connection,
        "source": run.source,
        "what": run.args.get("what"),
        **{flag: bool(run.args.get(flag)) for flag in ("dry_run", "existing_only", "force")},
        "state": run.state,
        "rows": rows,
        "total": run.total,
        "done": max(0, rows - sum(waiting)),
        "to_read": waiting[0],
        "to_tell": waiting[1],
        "people": _ends(counts, _REHEARSED if dry else _ENDS),
        "not_at_klaviyo": counts["not_at_klaviyo"],
        "notes": list(run.notes),
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "problem": run.problem,
        "detail": run.detail,
    }


def _ends(counts: Mapping[str, int], words: Sequence[str]) -> dict[str, int]:
    """People by where they ended; a row of the source without a usable address is one too."""
    found = {word: counts.get(word, 0) for word in words}
    found["held"] += counts.get("no_email", 0)
    found["invalid"] += counts.get("invalid_rows", 0)
    return found


def _story(person: PersonState) -> dict[str, Any]:
    fields = {
        name: {
            "value": value,
            "confirmed": person.confirmed.get(name, (None,))[0] == digest(value),
        }
        for name, (value, _) in person.wanted.items()
    }
    return {
        "platform_id": person.platform_id,
        "email": person.email,
        "read": {
            "state": person.read_state,
            "at": person.read_at,
            "unknown_since": person.gone_at,
        },
        "write": {"state": person.write_state, "problem": person.problem},
        "fields": fields,
        "timeline": [
            {
                "at": m.at,
                "what": m.what,
                "name": m.name,
                "state": m.state,
                "problem": m.problem,
                "detail": m.detail,
                "data": json.loads(m.data) if m.data else None,
                "request": asdict(m.request) if m.request else None,
            }
            for m in person.moments
        ],
    }


def _lane(b: Backlog, now: int) -> dict[str, Any]:
    return {
        "destination": b.lane.destination,
        "kind": b.lane.kind,
        "state": b.state.mode,
        "problem": b.state.problem.value if b.state.problem else None,
        "meaning": b.state.problem.meaning if b.state.problem else None,
        "detail": b.state.detail,
        "since": b.state.since,
        "ready": b.ready,
        "in_flight": b.claimed,
        "held": b.held,
        "dead": b.dead,
        "oldest_seconds": (now - b.oldest) / 1000 if b.oldest is not None else None,
    }
