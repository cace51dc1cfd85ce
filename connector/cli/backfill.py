"""`connector backfill`: start a backfill, follow its progress, print its summary."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from connector.cli import session, terminal
from connector.cli.format import format_time
from connector.domain.lanes import MAX_ID
from connector.domain.wording import counted, format_age

if TYPE_CHECKING:
    from connector.config import Config

_WAITING = "waits to start, or for approval"
_POLL_INTERVAL, _PRINT_INTERVAL = 0.2, 10.0
Run = dict[str, Any]


class StartByDefault(TyperGroup):
    """A group in which `backfill CONNECTION …` is `backfill start CONNECTION …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [word for word in args if not word.startswith("-")]
        asks_for_help = not words and any(word in ("-h", "--help") for word in args)
        if args and not asks_for_help and not (words and words[0] in self.commands):
            args = ["start", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=StartByDefault,
    no_args_is_help=True,
    help="Send many people to Klaviyo, behind live traffic.",
)


@app.command("list")
def list_(
    context: typer.Context,
    connection: Annotated[str | None, typer.Option(help="Only this connection.")] = None,
    as_json: session.AsJson = False,
) -> None:
    """List the last backfills and dry runs. Newest first, with their progress."""
    config = session.read_any(context.obj)
    if connection is not None:
        session.known_name(config, connection)
    found = session.run(_find(config, connection))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found:
        print("no backfill yet")
    for run in found:
        began = format_time(run["started_at"])
        print(f"{run['id']:>6}  {began}  {run['connection']}  {_describe(run)}")


@app.command()
def show(
    context: typer.Context,
    id: Annotated[
        int, typer.Argument(min=1, max=MAX_ID, help="Number of the backfill in the list.")
    ],
    as_json: session.AsJson = False,
) -> None:
    """Show one backfill. Its progress, results and notes."""
    try:
        run = session.run(_get(session.read_any(context.obj), id))
    except KeyError:
        typer.echo(f"no backfill has the number {id}; see connector backfill list", err=True)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps(run, indent=2))
        return
    _print_run(run)


async def _find(config: Config, connection: str | None) -> list[Run]:
    async with session.open_commands(config) as commands:
        return await commands.backfills(connection)


async def _get(config: Config, id: int) -> Run:
    async with session.open_commands(config) as commands:
        return await commands.backfill(id)


def _describe(run: Run) -> str:
    """`running, 1,204 of 5,000, 80/s, done in 47 s`."""
    kind = "dry run" if run["dry_run"] else "past events" if run["events"] else "people"
    of = "" if run["total"] is None else f" of {run['total']:,}"
    state = _state(run)
    pace = f", {run['per_second']:,.0f}/s" if run["per_second"] else ""
    eta = run["eta_seconds"]
    left = f", done in {format_age(eta)}" if eta is not None and run["progressing"] else ""
    return f"{kind} from {run['source']}: {state}, {run['done']:,}{of}{pace}{left}"


def _state(run: Run) -> str:
    if run["state"] == "running" and not run["progressing"]:
        return "interrupted, continues when the connector runs"
    return _WAITING if run["state"] == "waiting" else str(run["state"])


@app.command()
def start(
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
    as_json: session.AsJson = False,
) -> None:
    """Start or resume a backfill. The word start may be left out. Sends people's profiles, or with
    --events their past events. The same command resumes a run that was stopped or killed. The
    people are the given ones, else everyone the platform lists, else everyone seen so far. Ctrl-C
    stops following, not the work of a running daemon."""
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
    try:
        run, error = session.run(_execute(config, args, detach))
    except KeyboardInterrupt:
        typer.echo(_interrupted(config), err=True)
        raise typer.Exit(0) from None
    if error or run is None:
        typer.echo(error, err=True)
        raise typer.Exit(1)
    if as_json:
        print(json.dumps(run, indent=2))
    elif not detach:
        _print_run(run)
    raise typer.Exit(0 if detach or run["state"] == "done" else 1)


def _interrupted(config: Config) -> str:
    """What happens to the work after Ctrl-C."""
    if session.run(session.is_running(config)):
        return "the backfill continues; see connector backfill list, or stop it with --stop"
    return "the backfill is interrupted; the same command resumes it"


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
    import asyncio

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
            left = f", {format_age(max(0, total - run['done']) / pace)} left"
        of = f" of {total:,}" if total is not None else ""
        print(f"{label}: {run['done']:,}{of}, {pace:,.0f}/s{left}", file=sys.stderr)


def _run_label(run: Run) -> str:
    name = f"{'dry run' if run['dry_run'] else 'backfill'} {run['id']}"
    if run["state"] == "waiting":
        return f"{name} {_WAITING} (connector approvals list)"
    return f"{name} {_state(run)}"


def _print_run(run: Run) -> None:
    why = f"; {run['detail']}" if run["detail"] else ""
    if run["ended_at"] is None:
        print(f"backfill {run['id']} of {run['connection']}: {_describe(run)}")
    print(f"{_run_label(run)}: {counted(run['rows'], 'row')} read{why}")
    for word, count in run["people"].items():
        if count or word not in ("pending", "dead"):
            print(f"  {word.replace('_', ' '):<16}{count:>12,}")
    if run["duplicates"]:
        print(f"  {'duplicate rows':<16}{run['duplicates']:>12,}")
    for word, count in run["past_events"].items():
        print(f"  {'events ' + word.replace('_', ' '):<18}{count:>10,}")
    if run["existing_only"]:
        print(f"  {'not at Klaviyo':<16}{run['not_at_klaviyo']:>12,}")
    for note in run["notes"]:
        print(f"  {note}")
    if run["people"].get("new_to_klaviyo"):
        print("  Klaviyo bills active profiles: the new ones will count")
