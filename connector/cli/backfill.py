"""`connector backfill`: start a backfill, follow its progress, print its summary."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli import session, terminal

if TYPE_CHECKING:
    from connector.config import Config

_POLL_INTERVAL, _PRINT_INTERVAL = 0.2, 10.0
Run = dict[str, Any]


def register(app: typer.Typer) -> None:
    app.command()(backfill)


def backfill(
    context: typer.Context,
    connection: session.ConnectionName,
    emails: Annotated[
        Path | None, typer.Option(help="A CSV file with a column of e-mail addresses.")
    ] = None,
    klaviyo_list: Annotated[
        str, typer.Option(help="The members of a Klaviyo list: its id or exact name.")
    ] = "",
    klaviyo_segment: Annotated[
        str, typer.Option(help="The members of a Klaviyo segment: its id or exact name.")
    ] = "",
    events: Annotated[
        bool, typer.Option(help="Import past events instead of profile fields.")
    ] = False,
    since: Annotated[str, typer.Option(help="With --events: from this day, YYYY-MM-DD.")] = "",
    dry_run: Annotated[bool, typer.Option(help="Report what would change; send nothing.")] = False,
    existing_only: Annotated[
        bool, typer.Option(help="Only people who already have a profile at Klaviyo.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Send confirmed fields again, too.")] = False,
    restart: Annotated[
        bool, typer.Option(help="Start from the beginning instead of resuming.")
    ] = False,
    stop: Annotated[bool, typer.Option(help="Stop the running backfill.")] = False,
    detach: Annotated[
        bool, typer.Option(help="Return once the daemon has accepted the command.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Send many people to Klaviyo, behind live traffic. Their profiles, or with --events their past
    events. The same command resumes a run that was stopped or killed. The people are the
    given ones, else everyone the platform lists, else everyone seen so far."""
    config = session.read(context.obj)
    session.connection(config, connection)
    if stop:
        message = session.run(_stop(config, connection))
        typer.echo(message, err=not message.startswith("stopped"))
        raise typer.Exit(0 if message.startswith("stopped") else 1)
    args = {
        "connection": connection,
        **_people_args(emails, klaviyo_list, klaviyo_segment),
        "dry_run": dry_run,
        "existing_only": existing_only,
        "force": force,
        "restart": restart,
        "events": events,
        "since": _day(since, events),
    }
    run, error = session.run(_execute(config, args, detach))
    if error or run is None:
        typer.echo(error, err=True)
        raise typer.Exit(1)
    if as_json:
        print(json.dumps(run, indent=2))
    elif not detach:
        _print_run(run)
    raise typer.Exit(0 if detach or run["state"] == "done" else 1)


def _people_args(emails: Path | None, of_list: str, of_segment: str) -> dict[str, str]:
    """`source` and `what` of the command. A file is checked here, before the command is sent."""
    if sum([bool(emails), bool(of_list), bool(of_segment)]) > 1:
        raise typer.BadParameter("use only one of --emails, --klaviyo-list, --klaviyo-segment")
    if emails:
        from connector.sync.backfill import addresses

        try:
            addresses.detect_layout(emails)
        except addresses.FileError as error:
            raise typer.BadParameter(str(error)) from error
        return {"source": "emails", "what": str(emails.resolve())}
    if of_list:
        return {"source": "klaviyo-list", "what": of_list}
    return {"source": "klaviyo-segment", "what": of_segment} if of_segment else {}


def _day(since: str, events: bool) -> int | None:
    """Milliseconds of the start of the day in UTC."""
    if not since:
        return None
    if not events:
        raise typer.BadParameter("--since can only be used with --events")
    try:
        return round(datetime.fromisoformat(since).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise typer.BadParameter(f"{since!r} is not a date such as 2026-01-31") from None


async def _stop(config: Config, connection: str) -> str:
    async with session.executor(config) as execute:
        done, result = await execute("backfill-stop", {"connection": connection})
    return f"stopped: backfill {result['stopped']}" if done else str(result["error"])


async def _execute(config: Config, args: dict[str, Any], detach: bool) -> tuple[Run | None, str]:
    """(the run once it has ended or, with `detach`, once it is accepted; the error)."""
    async with session.executor(config) as execute:
        done, result = await execute("backfill", args)
        if not done:
            return None, str(result["error"])
        return await _follow(config, int(result["backfill"]), detach), ""


async def _follow(config: Config, id: int, detach: bool) -> Run:
    async with session.open_commands(config) as commands:
        run = await commands.backfill(id)
        if detach and await commands.holder():
            print(f"backfill {id} is {run['state']}; run the same command again to follow it")
            return run
        with _progress() as show:
            while run["state"] in ("waiting", "running"):
                show(run)
                await asyncio.sleep(_POLL_INTERVAL)
                run = await commands.backfill(id)
            show(run)
        return run


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Run], None]]:
    """Progress on stderr: a bar on a terminal, else a line every ten seconds."""
    if not sys.stderr.isatty():
        yield _LinePrinter()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.fields[total_text]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=terminal.console(stderr=True)) as bar:
        task = bar.add_task("", total=None, total_text="", rate="")
        pace = _RateMeter()

        def show(run: Run) -> None:
            bar.update(
                task,
                description=_run_label(run),
                completed=run["done"],
                total=run["total"],
                total_text=f"{run['total']:,}" if run["total"] is not None else "?",
                rate=f"{pace(run['done']):,.0f}/s",
            )

        yield show


class _RateMeter:
    """People per second since the first call."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int) -> float:
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        began, before = self._first
        return (done - before) / (now - began) if now > began else 0.0


class _LinePrinter:
    """One line every ten seconds, and whenever the state changes."""

    def __init__(self) -> None:
        self._pace = _RateMeter()
        self._last_printed = ("", float("-inf"))

    def __call__(self, run: Run) -> None:
        pace, label, now = self._pace(run["done"]), _run_label(run), time.monotonic()
        if label == self._last_printed[0] and now - self._last_printed[1] < _PRINT_INTERVAL:
            return
        self._last_printed = (label, now)
        total, left = run["total"], ""
        if total and pace > 0 and run["state"] == "running":
            left = f", {max(0, total - run['done']) / pace / 60:.0f} min left"
        of = f" of {total:,}" if total is not None else ""
        print(f"{label}: {run['done']:,}{of}, {pace:,.0f}/s{left}", file=sys.stderr)


def _run_label(run: Run) -> str:
    name = f"{'dry run' if run['dry_run'] else 'backfill'} {run['id']}"
    if run["state"] == "waiting":
        return f"{name} waits for approval (connector approvals list)"
    return f"{name} {run['state']}"


def _print_run(run: Run) -> None:
    why = f"; {run['detail']}" if run["detail"] else ""
    print(f"{_run_label(run)}: {run['rows']:,} read{why}")
    for word, count in run["people"].items():
        if count or word not in ("pending", "dead"):
            print(f"  {word.replace('_', ' '):<16}{count:>12,}")
    for word, count in run["past_events"].items():
        print(f"  {'events ' + word.replace('_', ' '):<18}{count:>10,}")
    if run["existing_only"]:
        print(f"  {'not at Klaviyo':<16}{run['not_at_klaviyo']:>12,}")
    for note in run["notes"]:
        print(f"  {note}")
    if run["people"].get("new_to_klaviyo"):
        print("  Klaviyo bills active profiles: the new ones will count")
