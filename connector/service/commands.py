"""What a person can order. Commands are rows, executed by the process that holds the lease of the
connection that they name, or of the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from connector.domain.errors import ConfigError, ConnectorError, Problem, StoreError
from connector.domain.lanes import PROFILES, Lane, LaneState
from connector.domain.records import State
from connector.pipeline.dispatch import Dispatcher
from connector.pipeline.lane_queues import queue_of
from connector.ports import (
    ALL_COMMANDS,
    Clock,
    Command,
    CommandScope,
    Decision,
    ProcessState,
    Store,
)
from connector.runtime import log
from connector.service import dead_letters
from connector.service.audit import audit_entry
from connector.service.dead_letters import CountChanged, Report
from connector.service.latest_status import LatestStatus
from connector.service.oauth import OAuthService
from connector.service.process import Process
from connector.service.queries import Queries
from connector.service.runtime import CommandResult, ConnectionRuntime
from connector.service.settings import SettingsService
from connector.service.status import Status

_AUDITED_ELSEWHERE = frozenset(("settings", "modules", "add-connection", "remove-connection"))
"""What they change is audited with the change, and says what was before."""

_BULK = ("retry", "discard", "refresh")
"""Commands about any number of records: they hold up no other command."""

_STEP = 1_000
"""People that one transaction requests reads of."""
_NO_READS = "only a running daemon that reads people can refresh a person"
_POLL_INTERVAL = 0.1


async def _ignore(progress: Mapping[str, Any]) -> None: ...


class Commands(Queries):
    """Queries and commands."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        process: Process | None = None,
        reload: Callable[..., Awaitable[Mapping[str, Any]]] | None = None,
        oauth: OAuthService | None = None,
        settings: SettingsService | None = None,
        on_executed: Callable[[], None] = lambda: None,
        changing: asyncio.Lock | None = None,
        until_confirmed: Callable[[str], Awaitable[None]] | None = None,
        on_resumed: Callable[[], None] = lambda: None,
        scope: Callable[[], CommandScope] = lambda: ALL_COMMANDS,
    ) -> None:
        """`changing` is held by whoever replaces connections, `until_confirmed` waits until Klaviyo
        has named the account of a connection; `on_resumed` asks at once for accounts that are not
        named. `scope`: whose commands this process carries out."""
        super().__init__(store, clock, process=process)
        self._reload = reload
        self._oauth = oauth
        self._settings = settings
        self._on_executed = on_executed
        self._changing = changing or asyncio.Lock()
        self._until_confirmed = until_confirmed
        self._on_resumed = on_resumed
        self._scope = scope
        self._long_running_tasks: set[asyncio.Task[None]] = set()
        self._fetched: dict[int, Command] = {}
        """Claimed by this process and not finished, in the order of their ids."""
        self._results: dict[int, CommandResult] = {}
        """Of commands that were executed; the store does not have them yet."""
        self._started: set[int] = set()
        self._fetch_unanswered = False
        self._finished = asyncio.Event()
        self.submitted = asyncio.Event()
        """Set by a command of this process, which then is not executed at the next turn only."""
        self._latest = LatestStatus(self._own_status, clock)
        self._log = log.get("operate")

    async def latest_status(self, *, fresh: bool = False) -> Status:
        """A status that is at most a second old, and not older than what was last waited for;
        `fresh`: not older than this call."""
        if fresh:
            self._latest.expire()
        return await self._latest.get()

    async def _own_status(self) -> Status:
        await self._note_attention()
        runtimes = self._process.runtimes if self._process else {}
        return await self.status({name: runtime.mapping for name, runtime in runtimes.items()})

    async def save_report(self) -> None:
        """Save what this process says about itself. Raises StoreError."""
        process = self._process
        if process is None:
            return
        await self._note_attention()
        document = (await process.report()).model_dump_json()
        now, offers = self._clock.now(), process.resources()
        state = ProcessState(process.holder, now, offers, document)
        reports = self._store.process_reports
        await (reports.save if offers else reports.withdraw)(state)

    async def _note_attention(self) -> None:
        """Remember since when something has waited. Raises StoreError."""
        if self._process:
            self._process.note([*await self._process.attention(), *await self._group_attention()])

    async def submit(self, kind: str, args: Mapping[str, Any], *, by: str, key: str = "") -> int:
        """See CommandQueue.submit."""
        now = self._clock.now()
        id = await self._store.commands.submit(kind, args, by=by, key=key, now=now)
        self.submitted.set()
        return id

    async def command(self, id: int) -> Command | None:
        return await self._store.commands.get(id)

    async def submit_and_wait(
        self,
        kind: str,
        args: Mapping[str, Any],
        *,
        by: str,
        key: str = "",
        patience: float = 5.0,
    ) -> Command:
        """Submit a command, and wait up to `patience` seconds until it is done."""
        id = await self.submit(kind, args, by=by, key=key)
        give_up = self._clock.monotonic() + patience
        while True:
            finished = self._finished
            command = await self._store.commands.get(id)
            if command is None:
                raise KeyError(id)
            if command.ok is not None or self._clock.monotonic() >= give_up:
                self._latest.expire()
                return command
            await self._clock.wait(finished, _POLL_INTERVAL)

    async def execute_pending(self) -> None:
        """Execute every open command. Each gets a result, also after an error. Raises StoreError;
        the next call then continues where this one ended."""
        await self._store_results()
        await self._fetch()
        for command in [c for c in self._fetched.values() if c.id not in self._started]:
            self._started.add(command.id)
            if self._is_long_running(command):
                task = asyncio.create_task(self._finish(command))
                self._long_running_tasks.add(task)
                task.add_done_callback(self._long_running_tasks.discard)
            else:
                await self._finish(command)
                await self._store_results()

    async def _fetch(self) -> None:
        if self._fetch_unanswered:
            await self._store.commands.requeue(keep=self._fetched, scope=self._scope())
        self._fetch_unanswered = True
        holder = self._process.holder if self._process else ""
        found = await self._store.commands.fetch(
            now=self._clock.now(), by=holder, scope=self._scope()
        )
        self._fetch_unanswered = False
        self._fetched.update((command.id, command) for command in found)

    def _is_long_running(self, command: Command) -> bool:
        if command.kind in _BULK:
            return True
        runtime = self._runtimes.get(str(command.args.get("connection", "")))
        handler = runtime.commands.get(command.kind) if runtime else None
        return handler is not None and handler.long_running

    async def _finish(self, command: Command) -> None:
        async def report(progress: Mapping[str, Any]) -> None:
            await self._store.commands.report(command.id, progress)
            self._on_executed()

        self._results[command.id] = await self.execute(
            command.kind, command.args, by=command.by, report=report
        )
        # Whoever waits for the result sees what it changed.
        with contextlib.suppress(StoreError):
            await self.save_report()
        with contextlib.suppress(StoreError):
            await self._store_results()
        self._on_executed()

    async def _store_results(self) -> None:
        if not self._results:
            return
        for id, (ok, result) in list(self._results.items()):
            await self._store.commands.finish(id, ok=ok, result=result, now=self._clock.now())
            self._results.pop(id, None)
            self._fetched.pop(id, None)
            self._started.discard(id)
        finished, self._finished = self._finished, asyncio.Event()
        finished.set()

    async def stop(self) -> None:
        """Cancel long-running commands. They are executed again after the next start."""
        for task in (long_running := list(self._long_running_tasks)):
            task.cancel()
        await asyncio.gather(*long_running, return_exceptions=True)

    async def execute(
        self,
        kind: str,
        args: Mapping[str, Any],
        *,
        by: str = "",
        report: Report = _ignore,
    ) -> tuple[bool, Mapping[str, Any]]:
        """Carry out one command. Errors become a result, never an exception. It is written to the
        audit log, with its error if it failed."""
        self._log.info("command_started", command=kind)
        before = dict(self._runtimes)
        done, result = await self._execute(kind, args, by, report)
        for name, runtime in self._runtimes.items():
            if before.get(name) is not runtime:
                runtime.wake()  # it may have looked for work before this command stored any
        if not done or kind not in _AUDITED_ELSEWHERE:
            try:
                now = self._clock.now()
                entry = audit_entry(kind, args, result, done=done, by=by, now=now)
                await self._store.audit.record(entry)
            except StoreError as error:
                self._log.error("audit_failed", command=kind, problem=error.problem.value)
        return done, result

    async def _execute(
        self, kind: str, args: Mapping[str, Any], by: str, report: Report
    ) -> tuple[bool, Mapping[str, Any]]:
        try:
            match kind:
                case "pause" | "resume":
                    async with self._changing:
                        return await self._pause_or_resume(kind, args["connection"])
                case "refresh" if "person" in args:
                    return await self._refresh_person(args["connection"], args["person"])
                case "refresh":
                    return await self._refresh_stuck(args["connection"], args["cause"], report)
                case "retry":
                    return True, await self._retry(args, report)
                case "discard":
                    count = await dead_letters.change(
                        self._store.dead_letters, "discard", args, clock=self._clock, report=report
                    )
                    return True, {"discarded": count}
                case "reload" if self._reload:
                    return True, await self._apply(self._reload, args)
                case "reload":
                    error = "no daemon runs on this store, so there is nothing to reload"
                    return False, {"error": error}
                case "applied" | "again" | "refuse":
                    return await self._decide_action(kind, args)
                case "forget" | "lift":
                    return await self._forget(kind, args)
                case "settings" if self._settings:
                    return True, await self._settings.change(
                        args["connection"], args.get("set"), remove=args.get("unset", ()), by=by
                    )
                case "add-connection" if self._settings:
                    return True, await self._settings.add(
                        args["connection"], args["source"], args.get("set", {}), by=by
                    )
                case "remove-connection" if self._settings:
                    return True, await self._settings.remove_connection(args["connection"], by=by)
                case "modules" if self._settings:
                    return True, await self._settings.switch_modules(
                        args["connection"], args["names"], on=args["on"], by=by
                    )
                case "disconnect" if self._oauth:
                    result = await self._oauth.disconnect(args["connection"])
                    await self._execute("reload", {}, by, report)
                    return True, result
                case "approve" | "reject":
                    return await self._decide_approval(
                        args["id"], kind == "approve", args.get("by", "")
                    )
                case _:
                    return await self._run_connection_command(kind, args)
        except ConfigError as error:
            problem = Problem.RELOAD_REFUSED if kind == "reload" else error.problem
            self._log.error(
                "command_rejected",
                command=kind,
                problem=problem.value,
                faults=list(error.faults),
            )
            return False, {"error": str(error), "faults": list(error.faults)}
        except CountChanged as error:
            return False, {"error": str(error)}
        except ConnectorError as error:
            self._log.error("command_failed", command=kind, problem=error.problem.value)
            return False, {"error": str(error)}
        except Exception as error:
            # A bug must neither end the loop nor leave the command without a result.
            self._log.exception("command_failed", command=kind)
            return False, {"error": f"{type(error).__name__}, see the log"}

    async def _apply(
        self, reload: Callable[..., Awaitable[Mapping[str, Any]]], args: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Apply the configuration, as a person `requested` (the default) or because settings were
        made. `other_account` in `args`: a person confirmed that the
        `connection` belongs to another Klaviyo account, so the pause for that ends."""
        result = await reload(requested=args.get("requested", True))
        if args.get("other_account") and self._until_confirmed:
            await self._until_confirmed(args["connection"])
            async with self._changing:
                await self._pause_or_resume("resume", args["connection"])
        return result

    async def _run_connection_command(
        self, kind: str, args: Mapping[str, Any]
    ) -> tuple[bool, Mapping[str, Any]]:
        """Commands that the connection itself carries out."""
        name = str(args.get("connection", ""))
        runtime = self._runtimes.get(name)
        if runtime is None:
            return False, {"error": f"no connection `{name}` runs here"}
        if kind not in runtime.commands:
            return False, {"error": f"{name} does not carry out `{kind}`"}
        return await runtime.commands[kind].run(args)

    async def _decide_action(
        self, decision: Decision, args: Mapping[str, Any]
    ) -> tuple[bool, Mapping[str, Any]]:
        """A person decides what happened to an action, or what is to be done."""
        now = self._clock.now()
        action = await self._store.action_decisions.decide(
            args["id"], decision, by=args.get("by", ""), now=now
        )
        if isinstance(action, str):
            return False, {"error": action}
        runtime = self._runtimes.get(action.connection)
        if runtime and runtime.actions:
            runtime.actions.wake()
        return True, {f"action {action.id}": action.state}

    async def _decide_approval(
        self, id: int, approved: bool, by: str
    ) -> tuple[bool, Mapping[str, Any]]:
        now = self._clock.now()
        answer = await self._store.approvals.decide(id, approved=approved, by=by, now=now)
        if answer is None:
            return False, {"error": f"no open approval has the id {id}"}
        if runtime := self._runtimes.get(answer.connection):
            runtime.wake()
        return True, {answer.state: f"{answer.what} of {answer.subject}"}

    async def _refresh_person(self, connection: str, who: str) -> tuple[bool, Mapping[str, Any]]:
        runtime = self._runtimes.get(connection)
        if runtime is None or runtime.reads is None:
            return False, {"error": _NO_READS}
        found = await self._store.timelines.find(connection, who)
        if not found:
            return False, {"error": f"{connection} has no person with this address or id"}
        now = self._clock.now()
        await self._store.reads.request(
            runtime.reads.lane.id, dict.fromkeys(found, now), urgent=True
        )
        runtime.reads.wake()
        return True, {"requested": len(found), "since": now}

    async def _refresh_stuck(
        self, connection: str, cause: str, report: Report
    ) -> tuple[bool, Mapping[str, Any]]:
        """Read everyone whose profile or read is held or died of the cause, after what is live."""
        runtime = self._runtimes.get(connection)
        if runtime is None or runtime.reads is None:
            return False, {"error": _NO_READS}
        now, requested, last = self._clock.now(), 0, None
        while page := await self._store.stuck_people.find(
            connection=connection, cause=cause, after=last, limit=_STEP
        ):
            last = page[-1].position
            people = {x.person for x in page if x.person is not None}
            await self._store.reads.request(
                runtime.reads.lane.id, dict.fromkeys(people, now), backfill=True
            )
            requested += len(people)
            await report({"requested": requested})
            runtime.reads.wake()
        return True, {"requested": requested}

    async def count_people(self, connection: str, who: str) -> int:
        """How many people `forget` would erase."""
        return (await self._store.erasure.find(connection, who)).people

    async def _forget(self, kind: str, args: Mapping[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Klaviyo first: after the person is erased here, the addresses are no longer known."""
        connection, who = args["connection"], args["person"]
        if kind == "lift":
            if await self._store.erasure.remove_tombstone(connection, who):
                return True, {"lifted": connection}
            return False, {"error": f"{connection} has no tombstone with this address or id"}
        found = await self._store.erasure.find(connection, who)
        erased_at = await self._store.erasure.erased_at(connection, who)
        if not found.people and erased_at is None:
            return False, {"error": f"{connection} has no person with this address or id"}
        klaviyo_result: Mapping[str, Any] = {}
        if args.get("klaviyo"):
            emails = found.emails or ([who] if "@" in who else [])
            request = {"connection": connection, "emails": emails}
            done, klaviyo_result = await self._run_connection_command("erase", request)
            if not done:
                return False, {"error": f"nothing was erased here: {klaviyo_result['error']}"}
        gone = await self._store.erasure.forget(connection, who, now=self._clock.now())
        return True, {"forgotten": gone.people, "rows": gone.rows, **klaviyo_result}

    async def _pause_or_resume(self, kind: str, connection: str) -> tuple[bool, Mapping[str, Any]]:
        lanes = [(x, s) for x, s in await self._store.lanes.all() if x.connection == connection]
        if not lanes:
            return False, {"error": f"no connection `{connection}` has run on this store"}
        runtime = self._runtimes.get(connection)
        adopted = False
        if kind == "resume" and runtime:
            adopted = await self._adopt_account(runtime, [lane for lane, _ in lanes])
        for lane, state in lanes:
            running = [d for d in runtime.dispatchers if d.lane.id == lane.id] if runtime else []
            if runtime and running:
                await self._switch_running(kind, runtime, running[0])
            else:
                await self._switch_stored(kind, lane, state, adopted=adopted)
        if kind == "resume":
            self._on_resumed()
            if runtime:
                runtime.wake()
        return True, {f"{kind}d": connection}

    async def _switch_running(
        self, kind: str, runtime: ConnectionRuntime, dispatcher: Dispatcher[Any]
    ) -> None:
        if kind == "pause":
            await dispatcher.pause()
            return
        await dispatcher.resume()

    async def _adopt_account(self, runtime: ConnectionRuntime, lanes: Sequence[Lane]) -> bool:
        """Forget what is known of the earlier account, where lanes are blocked because there is
        another one now, also what lanes know that do not run. A backfill that runs asks again. The
        account is pinned last: of a process that dies meanwhile the lanes stay blocked, and the
        command is repeated. False: the account is still in question."""
        blocked = [d for d in runtime.dispatchers if d.state.problem is Problem.KLAVIYO_ACCOUNT]
        if not blocked:
            return True
        if not runtime.account:
            return False
        now = self._clock.now()
        in_question = {d.lane.id for d in blocked}
        if runtime.events in blocked:
            running = {d.lane.id for d in runtime.dispatchers}
            in_question |= {lane.id for lane in lanes if lane.id not in running}
        for lane in lanes:
            if lane.lane_kind == PROFILES and lane.id in in_question:
                await self._store.profiles.reset_confirmed(lane.id, now=now)
                await self._store.address_scopes.move(runtime.name, runtime.account)
        if runtime.events in blocked:
            await self._store.member_groups.reset_account(runtime.name, now=now)
            for run in await self._store.backfills.find(runtime.name, limit=1):
                if run.state == "running":
                    await self._store.backfills.set_state(run.id, "waiting", now=now)
        await self._store.facts.pin_account(runtime.name, runtime.account, force=True)
        return True

    async def _switch_stored(
        self, kind: str, lane: Lane, state: LaneState, *, adopted: bool
    ) -> None:
        now = self._clock.now()
        if state.problem is Problem.KLAVIYO_ACCOUNT and not adopted:
            raise StoreError(
                Problem.KLAVIYO_ACCOUNT, f"{state.detail} (only while the daemon runs)"
            )
        queue = queue_of(lane.lane_kind, self._store)
        if state.mode != "running":
            await queue.extend_horizon(lane.id, now - state.since)
        if kind == "pause":
            await self._store.lanes.set_state(lane.id, LaneState("paused", Problem.PAUSED, "", now))
            return
        if state.mode != "running":
            await self._store.lanes.set_state(lane.id, LaneState("running", None, "", now))
        await queue.retry_now(lane.id, now=now)

    async def _retry(self, args: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
        letters = self._store.dead_letters
        count = await dead_letters.change(letters, "retry", args, clock=self._clock, report=report)
        for runtime in self._runtimes.values():
            for dispatcher in runtime.dispatchers:
                dispatcher.probe_now()
        # What is held now has no address; a retry takes all others.
        which = replace(dead_letters.filter_of(args), state=State.HELD)
        return {"retried": count, "waiting_for_an_address": await letters.count(which)}
