"""The streams of the command line. Text of remote systems is printed, but controls no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from connector.runtime.printable import printable

if TYPE_CHECKING:
    from rich.console import Console


class _Printable:
    """A text stream that escapes what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self.unprotected = stream

    def write(self, text: str) -> int:
        return self.unprotected.write(printable(text))

    def writelines(self, lines: Iterable[str]) -> None:
        self.unprotected.writelines(map(printable, lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unprotected, name)


@contextmanager
def protected_streams() -> Iterator[None]:
    """Escape the control characters of whatever is printed inside the block."""
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, _Printable(out)), cast(TextIO, _Printable(err))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err


def console(*, stderr: bool = False, **options: Any) -> Console:
    """A rich console whose texts are escaped too. Its own colours and cursor movements are not."""
    from rich.console import Console
    from rich.segment import Segment

    class PrintableConsole(Console):
        def _render_buffer(self, buffer: Iterable[Segment]) -> str:
            return super()._render_buffer(
                s if s.control else Segment(printable(s.text), s.style) for s in buffer
            )

    stream = sys.stderr if stderr else sys.stdout
    return PrintableConsole(file=getattr(stream, "unprotected", stream), **options)
