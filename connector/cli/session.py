"""What the commands share: the event loop, access to the store, running service commands."""

from __future__ import annotations

import contextlib
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
    from connector.domain.errors import Problem
    from connector.ports import Store
    from connector.service import Commands

T = TypeVar("T")

_TIMEOUT = 60.0
_POLL_INTERVAL = 0.1


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end on uvloop."""
    import asyncio

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def read(path: Path | None) -> Config:
    """Read the configuration, with the settings made at run time, and configure logging. Raises
    ConfigError. Without a store that can be read the files count alone."""
    from connector.config import with_overrides
    from connector.domain.errors import StoreError
    from connector.runtime import log
    from connector.runtime.encryption import Cipher
    from connector.service.settings import open_settings
    from connector.store.sql import stored_settings

    config = read_files(path)
    try:
        stored = run(stored_settings(config.store.url))
    except StoreError:
        stored = ()
    config = with_overrides(config, open_settings(stored, Cipher(config.security.encryption_key)))
    log.configure(format=config.log.format, level=config.log.level)
    return config


def read_files(path: Path | None) -> Config:
    """The configuration of the files alone, which settings made at run time may complete. Raises
    ConfigError where the store cannot be opened with it."""
    from connector.app.configuration import read_config

    return read_config(path, complete=False)


def read_server(path: Path | None) -> Server:
    """Where the daemon of these files listens, which no setting made at run time changes. Imports
    neither the store nor the platforms. Raises ConfigError as `read_any` does."""
    from connector.config import load, salvage
    from connector.domain.errors import ConfigError

    try:
        return load(path, complete=False).server
    except ConfigError as error:
        return salvage(path, error).server


def read_any(path: Path | None) -> Config:
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
    from connector.domain.wording import offered

    return typer.BadParameter(f"no {what} {name!r}{offered(name, available)}")


def known_problem(code: str) -> Problem:
    """The problem with this code. Raises BadParameter."""
    from connector.domain.errors import Problem

    try:
        return Problem.from_code(code.upper())
    except ValueError:
        raise unknown("problem code", code, [p.value for p in Problem]) from None


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
async def open_store(config: Config) -> AsyncIterator[Store]:
    """The configured store, whether or not a daemon runs on it. Raises StoreError where there is
    none: a question creates none."""
    from connector.store import sql

    # A read must not migrate the schema under a daemon of another version.
    store = await sql.open_store(config.store.url, migrate="manual", create=False)
    try:
        yield store
    finally:
        await store.aclose()


@contextlib.asynccontextmanager
async def open_commands(config: Config) -> AsyncIterator[Commands]:
    """Commands on the configured store. Raises StoreError where there is none."""
    from connector.runtime.clock import SystemClock
    from connector.service import Commands

    async with open_store(config) as store:
        yield Commands(store, SystemClock())


ConnectionName = Annotated[
    str, typer.Argument(metavar="connection", help="Name of the connection.")
]
Person = Annotated[str, typer.Argument(metavar="person", help="E-mail address or platform id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, see docs/json.md.")]
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
        print("\n".join(result_lines(result)))
        raise typer.Exit(0)
    faults = result.get("faults")
    for line in faults or [result["error"]]:
        print(line, file=sys.stderr)
    raise typer.Exit(2 if faults else 1)


def result_lines(result: Mapping[str, Any]) -> list[str]:
    """The result of a service command in words: what it did, then each table of counts."""
    words, tables = [], []
    for key, value in result.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            counts = ", ".join(f"{k} {v:,}" for k, v in value.items())
            tables += [f"  {name}: {counts}"] if counts else []
        elif isinstance(value, bool):
            words.append(name if value else f"not {name}")
        elif isinstance(value, list | tuple):
            words += [f"{name}: {', '.join(map(str, value))}"] if value else []
        else:
            words.append(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
    return [", ".join(words), *tables]


async def run_command(
    config: Config,
    kind: str,
    args: Mapping[str, Any],
    *,
    detach: bool = False,
    timeout: float = _TIMEOUT,
    create: bool = False,
) -> tuple[bool, Mapping[str, Any]]:
    """Run a service command: by the running daemon, else here under the store's lease.

    Waits up to `timeout` seconds for the daemon; not at all with `detach`. With `create` the store
    is created if there is none. Returns (done, result).
    """
    import asyncio

    if create and not await is_running(config):
        return await _execute_locally(config, kind, args)
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
    from connector.pipeline.lease import ProcessLeases, held_by
    from connector.runtime.clock import SystemClock
    from connector.service import Commands
    from connector.service.settings import SettingsService
    from connector.store.sql import open_store

    store = await open_store(config.store.url, migrate=config.store.migrate)
    clock = SystemClock()
    leases = ProcessLeases(store, clock)
    try:
        if holder := await leases.acquire_store():
            raise held_by(holder.holder)
        try:
            oauth = oauth_service(store, clock, lambda: config, no_change)
            settings = SettingsService(
                store, clock, config=lambda: config, read=lambda: config, apply=_nothing
            )
            commands = Commands(store, clock, oauth=oauth, settings=settings)
            return await commands.execute(kind, args, by=current_user())
        finally:
            await leases.aclose()
    finally:
        await store.aclose()


async def _nothing() -> None:
    """No connection runs in this process, so a change is in effect once it is stored."""
