"""`connector status` and `connector top`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import typer

from connector.cli import session, terminal
from connector.cli.format import print_wide

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from connector.config import Config
    from connector.service.status import Status

_PINNED_SHARE = 0.6
"""Of the screen's height that what needs a person may take while connections scroll below it."""


def register(app: typer.Typer) -> None:
    app.command()(status)
    app.command()(top)


def status(
    context: typer.Context,
    as_json: session.AsJson = False,
) -> None:
    """Show what needs you, then every connection. Works whether or not the daemon runs."""
    from connector.app.collector import postpone_collection

    postpone_collection()
    found = _from_daemon(context.obj) or _from_store(context.obj)
    if as_json:
        print(found.model_dump_json(indent=2))
        return
    from connector.cli import status_view

    print_wide(lambda width: status_view.whole(found, width))


def _from_daemon(path: Path | None) -> Status | None:
    """The status of the daemon that runs on the configured store; None without one that gives it to
    this machine. Imports neither the store nor the platforms, which takes most of a second."""
    from pydantic import ValidationError

    from connector.config import load
    from connector.domain.errors import ConfigError
    from connector.net import loopback
    from connector.service import status as document

    try:
        config = load(path, complete=False)
    except ConfigError:
        return None
    port = config.server.admin_port or config.server.port
    if config.faults or not port:
        return None
    answer = loopback.get(config.server.host, port, document.PATH)
    own = answer and answer.headers.get(document.STORE_HEADER) == config.store.identity
    if not answer or not own or answer.status != 200:
        return None
    try:
        return document.Status.model_validate_json(answer.body)
    except ValidationError:
        return None  # a daemon of another version


def _from_store(path: Path | None) -> Status:
    from connector.domain.errors import StoreError

    config = session.read_any(path)
    try:
        return session.run(_status(config))
    except StoreError:
        # The running daemon may know why the store cannot be read.
        if not (lines := session.run(_health_lines(config))):
            raise
        for line in lines:
            print(f"the running daemon reports: {line}", file=sys.stderr)
        raise typer.Exit(1) from None


async def _status(config: Config) -> Status:
    async with session.open_commands(config) as commands:
        return await commands.status(_versions(config))


async def _health_lines(config: Config) -> list[str]:
    """The lines of /healthz; empty without an answer of a connector that needs a person."""
    status, text = await session.fetch(config.server, "/healthz")
    return text.splitlines() if status == 500 and not text.lstrip().startswith("<") else []


def _versions(config: Config) -> dict[str, str]:
    """Connection → version of its mapping file now."""
    from connector.domain.errors import ConfigError
    from connector.mapping import load

    found: dict[str, str] = {}
    for connection in config.connections:
        with contextlib.suppress(ConfigError):
            found[connection.name] = load(connection.mapping).mapping.version
    return found


def top(context: typer.Context) -> None:
    """Show the status live, until q or Ctrl-C. The arrow keys and the space bar scroll."""
    if not sys.stdout.isatty():
        typer.echo("top needs a terminal; `connector status` prints the same once", err=True)
        raise typer.Exit(2)
    with contextlib.suppress(KeyboardInterrupt):
        session.run(_top(session.read_any(context.obj)))


async def _top(config: Any) -> None:
    from rich.live import Live

    async with session.open_commands(config) as commands:
        console = terminal.console()
        with Live(console=console, screen=True, auto_refresh=False) as live, _Keys() as keys:
            while not keys.closed:
                # Without the mapping versions: counting people rendered with others is expensive.
                screen = Screen(live.console, await commands.status())
                live.update(screen.at(keys.position), refresh=True)
                keys.limit = screen.last_position
                await keys.wait(1.0)


class Screen:
    """The status cut to the height of a console. What needs a person is always on it, or, where
    that is more than fits, the first of what one scrolls through."""

    def __init__(self, console: Console, found: Status) -> None:
        from connector.cli import status_view as view

        def lines(parts: list[RenderableType]) -> list[Any]:
            return [line for part in parts for line in view.lines_of(console, part)]

        pinned = lines(view.head(found))
        parts: list[RenderableType] = []
        for name in view.by_trouble(found):
            parts += ["", view.connection(name, found, console.width)]
        scrolled = lines([*parts, "", *view.tail(found)])
        if len(pinned) > console.height * _PINNED_SHARE:
            pinned, scrolled = pinned[:1], pinned[1:] + scrolled
        self._pinned, self._scrolled = pinned, scrolled
        self._room = max(1, console.height - len(pinned) - 1)

    @property
    def last_position(self) -> int:
        """The greatest number of lines that can be scrolled away."""
        return max(0, len(self._scrolled) - self._room)

    def at(self, position: int) -> RenderableType:
        """The screen with `position` lines scrolled away."""
        from rich.console import Group
        from rich.text import Text

        start = min(position, self.last_position)
        shown = self._scrolled[start : start + self._room]
        below = len(self._scrolled) - start - len(shown)
        more = f"{below} more lines: ↓ or space" if below else "q: end"
        return Group(*self._pinned, *shown, Text(more, style="dim"))


class _Keys:
    """Reads keys from the terminal, where stdin is one."""

    _STEPS: ClassVar = {
        b"\x1b[A": -1,
        b"k": -1,
        b"\x1b[B": 1,
        b"j": 1,
        b"\x1b[5~": -15,
        b"\x1b[6~": 15,
        b" ": 15,
    }

    def __init__(self) -> None:
        import asyncio

        self.position = 0
        self.limit = 0
        self.closed = False
        self._key_read = asyncio.Event()
        self._saved: Any = None

    def __enter__(self) -> _Keys:
        import asyncio

        if sys.stdin.isatty():
            import termios
            import tty

            self._saved = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
            asyncio.get_running_loop().add_reader(sys.stdin, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        import asyncio

        if self._saved is not None:
            import termios

            asyncio.get_running_loop().remove_reader(sys.stdin)
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._saved)

    def _read(self) -> None:
        import os

        key = os.read(sys.stdin.fileno(), 16)
        if key in (b"q", b""):
            self.closed = True
        step = self._STEPS.get(key, 0)
        self.position = max(0, min(self.limit, self.position + step))
        self._key_read.set()

    async def wait(self, seconds: float) -> None:
        """Until a key is read, at most `seconds`."""
        import asyncio

        self._key_read.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._key_read.wait(), seconds)
