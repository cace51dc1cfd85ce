"""What the commands share: the event loop, access to the store, running service commands."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import getpass
import os
import sys
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from connector.config import Config, Connection, Server
    from connector.service import Commands

T = TypeVar("T")

_TIMEOUT = 60.0
_POLL_INTERVAL = 0.1


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end on uvloop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def read(path: Path | None) -> Config:
    """Read the configuration and configure logging. Raises ConfigError."""
    from connector.app.daemon import read_config
    from connector.runtime import log

    config = read_config(path)
    log.configure(format=config.log.format, level=config.log.level)
    return config


def read_any(path: Path | None, *, quiet: bool = False) -> Config:
    """As `read`, for commands that only need the store or the running daemon: of a faulty
    configuration they use the part that says where those are. Raises ConfigError where even that
    cannot be read."""
    from connector.config import salvage
    from connector.domain.errors import ConfigError
    from connector.domain.wording import counted
    from connector.runtime import log

    try:
        return read(path)
    except ConfigError as error:
        config = salvage(path, error)
        log.configure(format=config.log.format, level=config.log.level)
        if quiet:
            return config
        print(
            f"the configuration has {counted(len(error.faults), 'fault')} "
            "(`connector check` lists them); this uses the store and what last ran",
            file=sys.stderr,
        )
        return config


def connection(config: Config, name: str) -> Connection:
    """The connection of this name. Raises BadParameter, which lists the names."""
    try:
        return config.connection(name)
    except KeyError:
        raise unknown("connection", name, [c.name for c in config.connections]) from None


def unknown(what: str, name: str, available: Iterable[str]) -> typer.BadParameter:
    """A name that does not exist, with the closest and all that do."""
    names = sorted(set(available))
    close = difflib.get_close_matches(name, names, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    return typer.BadParameter(f"no {what} {name!r}{hint}; available: {', '.join(names) or 'none'}")


def known_name(config: Config, name: str) -> str:
    """The name of a connection that is configured or has run on this store. Raises BadParameter."""
    if name in {c.name for c in config.connections}:
        return name
    names = {c.name for c in config.connections} | set(run(_stored_names(config)))
    if name not in names:
        raise unknown("connection", name, names)
    return name


async def _stored_names(config: Config) -> Sequence[str]:
    from connector.domain.errors import StoreError
    from connector.store.sql import file_of

    file = file_of(config.store.url)
    if file and not file.exists():
        return []
    try:
        async with open_commands(config) as commands:
            return await commands.connection_names()
    except StoreError:
        return []


def seconds(text: str) -> float:
    """Seconds of a duration option such as `30s`. Raises BadParameter."""
    from pydantic import TypeAdapter, ValidationError

    from connector.config import Duration

    try:
        return TypeAdapter[float](Duration).validate_python(text)
    except ValidationError:
        raise typer.BadParameter(f"{text!r} is not a duration such as 30s") from None


async def fetch(server: Server, path: str) -> tuple[int, str]:
    """GET `path` from the daemon of this configuration: (status, text); status 0: no response."""
    from connector.net.http import get as get

    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    return await get(f"http://{f'[{host}]' if ':' in host else host}:{server.port}{path}")


@contextlib.asynccontextmanager
async def open_commands(config: Config) -> AsyncIterator[Commands]:
    """Commands on the configured store, whether or not a daemon runs on it. Raises StoreError
    where there is no store: a question creates none."""
    from connector.runtime.clock import SystemClock
    from connector.service import Commands
    from connector.store.sql import open_store

    # A read must not migrate the schema under a daemon of another version.
    store = await open_store(config.store.url, migrate="manual", create=False)
    try:
        yield Commands(store, SystemClock())
    finally:
        await store.aclose()


ConnectionName = Annotated[
    str, typer.Argument(metavar="connection", help="Name of the connection.")
]
Person = Annotated[str, typer.Argument(metavar="person", help="E-mail address or platform id.")]
Detach = Annotated[
    bool, typer.Option("--detach", help="Return at once; the running daemon does the work.")
]


def follow(
    path: Path | None, kind: str, args: Mapping[str, Any], *, detach: bool = False
) -> NoReturn:
    """Run a service command, print its result and exit with its exit code."""
    config = read_any(path)
    if "connection" in args:
        known_name(config, args["connection"])
    print_result(run(run_command(config, kind, args, detach=detach)))


def print_result(answer: tuple[bool, Mapping[str, Any]]) -> NoReturn:
    """Print the result of a service command and exit with its exit code."""
    done, result = answer
    if done:
        print(", ".join(f"{key}: {value}" for key, value in result.items()))
        raise typer.Exit(0)
    faults = result.get("faults")
    for line in faults or [result["error"]]:
        print(line, file=sys.stderr)
    raise typer.Exit(2 if faults else 1)


async def run_command(
    config: Config,
    kind: str,
    args: Mapping[str, Any],
    *,
    detach: bool = False,
    timeout: float = _TIMEOUT,
) -> tuple[bool, Mapping[str, Any]]:
    """Run a service command: by the running daemon, else here under the store's lease.

    Waits up to `timeout` seconds for the daemon; not at all with `detach`. Returns (done, result).
    """
    async with open_commands(config) as commands:
        if await commands.holder() is None:
            return await _execute_locally(config, kind, args)
        id = await commands.submit(kind, args, by=current_user())
        if detach:
            return True, {"command": id}
        for _ in range(round(timeout / _POLL_INTERVAL)):
            await asyncio.sleep(_POLL_INTERVAL)
            command = await commands.command(id)
            if command and command.ok is not None:
                return command.ok, command.result or {}
        holder = await commands.holder() or "no process (was it stopped?)"
    unfinished = f"command {id} is not done after {timeout:.0f} s and stays queued"
    return False, {"error": f"{unfinished}; the store's lease is held by {holder}"}


async def is_running(config: Config) -> bool:
    """Whether a process holds the lease of this store now."""
    from connector.store.sql import file_of

    if (path := file_of(config.store.url)) and not path.exists():
        return False
    async with open_commands(config) as commands:
        return await commands.holder() is not None


Executor = Callable[[str, Mapping[str, Any]], Awaitable[tuple[bool, Mapping[str, Any]]]]


@contextlib.asynccontextmanager
async def executor(config: Config, *, timeout: float = _TIMEOUT) -> AsyncIterator[Executor]:
    """Run commands that need lanes: in the running daemon, waiting up to `timeout` seconds, else
    in this process, whose lanes run until the block ends."""
    if await is_running(config):
        yield lambda kind, args: run_command(config, kind, args, timeout=timeout)
        return
    from connector.app.daemon import App
    from connector.domain.errors import ConfigError

    if config.faults:
        raise ConfigError(config.faults)  # without a daemon this process needs all of it
    app = App(config)
    try:
        await app.start(lease_timeout=0.0, serve=False)
        yield app.commands.execute
    finally:
        await app.stop()


def current_user() -> str:
    """The user's name, or the user id where the system has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


async def _execute_locally(
    config: Config, kind: str, args: Mapping[str, Any]
) -> tuple[bool, Mapping[str, Any]]:
    from connector.app.oauth import no_change, oauth_service
    from connector.pipeline.lease import LeaseRenewer, holder_name
    from connector.runtime.clock import SystemClock
    from connector.service import Commands
    from connector.store.sql import open_store

    store = await open_store(config.store.url, migrate=config.store.migrate)
    lease = LeaseRenewer(store, SystemClock(), holder_name())
    try:
        await lease.acquire(0.0)
        try:
            clock = SystemClock()
            oauth = oauth_service(store, clock, lambda: config, no_change)
            return await Commands(store, clock, oauth=oauth).execute(kind, args)
        finally:
            await lease.release()
    finally:
        await store.aclose()
