"""Importing a library later, or without what it would only use if it were asked to.

structlog imports rich to draw tracebacks, and httpx to be a command: together a third of what they
take. Both do without where it is not installed.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def without(*modules: str) -> Iterator[None]:
    """Inside the block these modules cannot be imported, unless they are already. For the top of a
    module, before there are threads that may want them."""
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: "not installed"
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)


async def import_in_thread(modules: Iterable[str]) -> None:
    """Import these modules while the event loop runs on."""
    await asyncio.to_thread(lambda: [importlib.import_module(name) for name in modules])
