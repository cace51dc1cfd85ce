"""What a person can order. Orders are rows: whoever holds the store's lease carries them out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from connector.domain.errors import ConfigError, ConnectorError, Problem, StoreError
from connector.domain.lanes import (
    Lane,
    LaneState,
)
from connector.domain.records import (
    State,
)
from connector.pipeline.dispatch import Dispatcher
from connector.ports import Clock, Decision, Order, Queue, Store
from connector.runtime import log
from connector.service.connection import KLAVIYO, Line
from connector.service.queries import Questions


class Operator(Questions):
    """Questions and orders."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        lines: Mapping[str, Line] | None = None,
        reload: Callable[[], Awaitable[Mapping[str, Any]]] | None = None,
        trouble: Callable[[], list[str]] = list,
    ) -> None:
        super().__init__(store, clock, lines=lines, trouble=trouble)
        self._reload = reload
        self._errands: set[asyncio.Task[None]] = set()
        self._log = log.get("operate")

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
