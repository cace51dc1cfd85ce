"""What a start costs for each connection more: reads, transactions and statements, and how often a
mapping is parsed. They are counts, not timings."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from connector.app import daemon
from connector.app.accounts import AccountLookups
from connector.app.listeners import prepare_pages
from connector.app.wiring.accounts import Account
from connector.domain.lanes import Lane
from connector.mapping import files
from connector.store.sqlite import SqliteDatabase
from connector.web.api import app as api
from tests.paths import ROOT

from .start import World, opened

_FEW, _MANY = 2, 12
_STATEMENTS = 5
"""Of a connection: the spent quota of its Klaviyo account and of its platform's credential, in
windows of minutes and of a day."""

_LATER = (
    *("aiohttp", "alembic", "apscheduler", "asyncpg", "authlib", "fastapi", "jinja2", "rich"),
    *("sqlalchemy.dialects.postgresql", "connector.console", "connector.web.api.app"),
    *("connector.service.connection_setup", "connector.service.webhook_builder"),
)
"""What the path to /readyz 200 does not need, on an SQLite store that exists."""


@contextmanager
def _counted() -> Iterator[Counter[str]]:
    """The calls of the database by their kind, and its statements."""
    found: Counter[str] = Counter()

    def note(*_: Any) -> None:
        found["statement"] += 1

    def counting(kind: str, run: Any) -> Any:
        async def counted(database: SqliteDatabase, work: Any, **options: Any) -> Any:
            found[kind] += 1
            return await run(database, work, **options)

        return counted

    event.listen(Engine, "before_cursor_execute", note)
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("read", "write"):
            patch.setattr(SqliteDatabase, kind, counting(kind, getattr(SqliteDatabase, kind)))
        try:
            yield found
        finally:
            event.remove(Engine, "before_cursor_execute", note)


def _configure(world: World, connections: int) -> list[str]:
    """Connections to an account each; their names."""
    names = [f"c{number}" for number in range(connections)]
    world.configure(*(world.connection(name, key=f"pk_{name}") for name in names))
    return names


async def _start(world: World, connections: int) -> Counter[str]:
    """What a start takes where these connections have run before."""
    names = _configure(world, connections)
    async with world.running():
        pass
    until_ready: list[Counter[str]] = []

    async def ready(modules: Any) -> None:
        until_ready.append(+found)

    with _counted() as found, pytest.MonkeyPatch.context() as patch:
        # From here on workers run, each in a rhythm of its own.
        patch.setattr(daemon, "import_in_thread", ready)
        async with world.running() as app:
            assert list(app.runtimes) == names
    return until_ready[0]


async def test_a_start_asks_the_store_for_all_connections_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        few, many = await _start(world, _FEW), await _start(world, _MANY)
    more = {kind: (many[kind] - few[kind]) / (_MANY - _FEW) for kind in many}
    assert more["write"] <= 0.2, more
    assert more["read"] <= 2.2, more
    assert more["statement"] <= _STATEMENTS, more


async def test_accounts_are_not_asked_for_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two of them whatever else is ready runs, such as a webhook."""
    turn, begun_at, all_begun = 0, [], asyncio.Event()

    def count() -> None:
        nonlocal turn
        turn += 1
        asyncio.get_running_loop().call_soon(count)

    async def look_up(lookups: AccountLookups, account: Account) -> bool:
        begun_at.append(turn)
        if len(begun_at) == _MANY:
            all_begun.set()
        return False

    monkeypatch.setattr(AccountLookups, "_look_up", look_up)
    async with opened(tmp_path) as world:
        _configure(world, _MANY)
        async with world.running():
            count()
            await asyncio.wait_for(all_begun.wait(), 30)
    assert len(set(begun_at[:_MANY])) == _MANY


async def test_a_mapping_is_read_once_for_all_that_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    for name in ("parse_toml", "compile_mapping"):
        original = getattr(files, name)

        def counting(*args: Any, name: str = name, run: Any = original, **options: Any) -> Any:
            calls[name] += 1
            return run(*args, **options)

        monkeypatch.setattr(files, name, counting)
    async with opened(tmp_path) as world:
        _configure(world, _MANY)
        calls.clear()
        async with world.running():
            pass
    assert calls == {"parse_toml": 1, "compile_mapping": 1}


async def test_a_start_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    async with opened(tmp_path, f"sqlite:///{tmp_path / 'state.db'}") as world, world.running():
        pass
    program = (
        "import os, sys\n"
        f"later = {_LATER!r}\n"
        "from connector.app import daemon\n"
        "from connector.cli import main\n"
        "async def report(modules):\n"
        "    print(*[name for name in later if name in sys.modules], flush=True)\n"
        "    os._exit(0)\n"
        "daemon.import_in_thread = report  # called once webhooks are taken\n"
        f"sys.argv = ['connector', '--config', {str(world.file)!r}, 'run']\n"
        "main()\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "\n"


def test_the_first_who_asks_the_api_waits_for_no_import() -> None:
    api._routes.cache_clear()
    prepare_pages()
    assert api._routes.cache_info().currsize == 1
    assert "connector.console" in sys.modules


def test_who_asks_the_api_while_it_is_prepared_waits_for_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is prepared in one thread, and what a request needs is built in another."""
    began, released = threading.Event(), threading.Event()
    register = api.problems.register
    made: list[Any] = []

    def slow(app: Any) -> None:
        made.append(app)
        began.set()
        assert released.wait(30)
        register(app)

    monkeypatch.setattr(api.problems, "register", slow)
    api._routes.cache_clear()
    threads = [threading.Thread(target=api.prepare) for _ in range(2)]
    threads[0].start()
    assert began.wait(30)
    threads[1].start()
    threads[1].join(0.05)
    released.set()
    for thread in threads:
        thread.join(30)
    assert len(made) == 1


async def test_what_a_connection_was_built_from_is_not_kept_by_each(tmp_path: Path) -> None:
    """At the first contact each connection is built again by itself, once its account is known."""

    def kept() -> int:
        gc.collect()
        return sum(isinstance(each, Lane) for each in gc.get_objects())

    async with opened(tmp_path) as world:
        _configure(world, _MANY)
        async with world.running() as app:
            before = kept()
            for name in app.runtimes:
                await app.connections.rebuild(name, f"account of {name}", ours=True)
            lanes = sum(len(runtime.dispatchers) for runtime in app.runtimes.values())
            assert kept() - before <= 2 * lanes
