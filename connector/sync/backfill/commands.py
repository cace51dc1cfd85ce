"""The commands `backfill` and `backfill-stop` of one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, Millis
from connector.ports import Backfill, Backfills, Clock, TargetGroups
from connector.sync.backfill import addresses
from connector.sync.backfill.addresses import FileError
from connector.sync.backfill.history_import import no_history
from connector.sync.backfill.sources import (
    EMAIL_FILE,
    KLAVIYO_GROUPS,
    KNOWN_PEOPLE,
    PLATFORM_LISTING,
)
from connector.sync.backfill.worker import BackfillWorker
from connector.sync.group_names import offer

CommandResult = tuple[bool, Mapping[str, Any]]
"""(whether it was done, what came of it or `error`)."""


class BackfillCommands:
    """Starts, resumes and stops the runs that `worker` carries out.

    `lists_people`: the platform can list its people. `history_events` is the lane of events where
    past events can be imported, else None.
    """

    def __init__(
        self,
        connection: str,
        worker: BackfillWorker,
        *,
        backfills: Backfills,
        groups: TargetGroups,
        clock: Clock,
        lists_people: bool,
        history_events: Lane | None,
    ) -> None:
        self._connection = connection
        self._worker = worker
        self._backfills = backfills
        self._groups = groups
        self._clock = clock
        self._lists_people = lists_people
        self._history_events = history_events

    async def start(self, args: Mapping[str, Any]) -> CommandResult:
        """Start a run, or resume the unfinished one that the same command started.

        `source` and `what` select the people; without `source` these are all that the platform
        lists, else all that are in the store. `dry_run`, `existing_only`, `force` and `restart` are
        the options of the CLI. With `events` the people's past events are imported, from `since`
        (ms) on. The result has the number of the run.
        """
        parsed = await self._parse(args)
        if isinstance(parsed, str):
            return False, {"error": parsed}
        source, run_args = parsed
        restart = bool(args.get("restart"))
        last = await self._worker.latest_run()
        if last is not None and last.state in ("waiting", "running"):
            if not _same_command(last, source, run_args):
                return False, {
                    "error": f"backfill {last.id} ({last.source}) of {self._connection} is not "
                    "finished; wait for it, or stop it"
                }
            if not restart:
                return True, {"backfill": last.id, "resumed": True}
            await self._worker.end(last, "stopped", detail="restarted by a person")
        elif (
            last is not None
            and last.state != "done"
            and not restart
            and _same_command(last, source, run_args)
        ):
            return await self._resume(last, run_args)
        run = await self._backfills.begin(self._connection, source, run_args, now=self._clock.now())
        self._worker.wake()
        return True, {"backfill": run.id, "resumed": False}

    async def _resume(self, run: Backfill, args: Mapping[str, Any]) -> CommandResult:
        if run.args.get("fingerprint") != args.get("fingerprint"):
            return False, {
                "error": f"{args['what']} has changed since backfill {run.id} began, so the run "
                "cannot be resumed; --restart starts again with the new content"
            }
        await self._backfills.set_state(run.id, "waiting", now=self._clock.now())
        self._worker.wake()
        return True, {"backfill": run.id, "resumed": True}

    async def stop(self, args: Mapping[str, Any]) -> CommandResult:
        """Stop reading people. Profiles of people who were read already are still written."""
        last = await self._worker.latest_run()
        if last is None or last.state not in ("waiting", "running"):
            return False, {"error": f"no backfill of {self._connection} is running"}
        await self._worker.end(last, "stopped", detail="stopped by a person")
        return True, {"stopped": last.id}

    async def _parse(self, args: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | str:
        """(source, args of the run), or what is wrong with the command."""
        default_source = PLATFORM_LISTING if self._lists_people else KNOWN_PEOPLE
        source, what = str(args.get("source") or default_source), args.get("what")
        flags = {flag: bool(args.get(flag)) for flag in ("dry_run", "existing_only", "force")}
        run_args: dict[str, Any] = {"what": what, **flags}
        if args.get("events"):
            if self._history_events is None:
                return no_history(self._connection)
            until = await self._history_end(self._history_events)
            run_args |= {"events": True, "since": args.get("since"), "until": until}
        if source == EMAIL_FILE:
            try:
                path = Path(str(what))
                await asyncio.to_thread(addresses.detect_layout, path)
                run_args["fingerprint"] = await asyncio.to_thread(addresses.fingerprint, path)
            except FileError as error:
                return f"{Problem.BACKFILL_FILE} {error}"
        elif source in KLAVIYO_GROUPS:
            kind = KLAVIYO_GROUPS[source]
            found = await self._groups.find(kind, str(what))
            if not found:
                instead = await offer(str(what), self._groups.all(kind))
                return f"Klaviyo has no {kind} with the name or id {what!r}{instead.text}"
            if len(found) > 1:
                return f"{len(found)} {kind}s have this name; give the id, one of {sorted(found)}"
            run_args["group"] = next(iter(found))
        return source, run_args

    async def _history_end(self, events: Lane) -> Millis:
        """Later events were or will be received live. Kept with the first import, because
        retention deletes the first live event."""
        for run in await self._backfills.find(self._connection, limit=1_000):
            if run.args.get("until"):
                return Millis(run.args["until"])
        return await self._backfills.first_live_event_at(events) or self._clock.now()


def _same_command(run: Backfill, source: str, args: Mapping[str, Any]) -> bool:
    """Whether the command asks for the same as the one that started the run."""
    keys = ("what", "dry_run", "existing_only", "force", "events", "since")
    return run.source == source and all(run.args.get(key) == args.get(key) for key in keys)
