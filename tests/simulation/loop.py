"""An event loop on virtual time that runs ready callbacks in an order made from a seed.

The only module that knows how tasks are scheduled. A callback belongs to the process (`Owner`) in
whose context it was scheduled: a frozen process runs nothing until it is thawed, a dead one runs
nothing any more. Nothing here waits for the machine's clock, a socket or a thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

T = TypeVar("T")

OWNER: contextvars.ContextVar[Owner | None] = contextvars.ContextVar("owner", default=None)
"""The process whose code runs; None for the world around the processes."""


class Owner:
    """A simulated process, as far as the loop is concerned."""

    def __init__(self) -> None:
        self.condition: Literal["running", "frozen", "dead"] = "running"
        self.tasks: list[asyncio.Task[Any]] = []
        self.parked: list[asyncio.Handle] = []
        """Callbacks that became ready while the process did not run."""
        self.requests: dict[asyncio.Event, None] = {}
        """One for each request under way, set when its sender waits for it no longer. Ordered, as
        a set of objects is not."""
        self.context = contextvars.copy_context()
        self.context.run(OWNER.set, self)


class Deadlock(Exception):
    """Nothing is ready and nothing is scheduled: whoever waits would wait for ever."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """`time` is the virtual time in seconds; it moves to the next timer as soon as nothing is
    ready."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._virtual_time = 0.0
        self.pass_time(0.0)
        self._selector = _TimePasses(self)
        self._ready = _SeededQueue(rng)
        self.set_task_factory(_owned_task)
        self.set_exception_handler(lambda loop, context: None)

    def time(self) -> float:
        return self._virtual_time

    def pass_time(self, seconds: float | None) -> None:
        if seconds is None:
            raise Deadlock
        self._virtual_time += seconds
        # No timer ends early: who waits for a moment and finds it still to come would wait for no
        # time again, and none passes while something is ready.
        self._clock_resolution = math.ulp(self._virtual_time)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> Any:
        """Runs the function at once: there are no threads."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def spawn(self, owner: Owner | None, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` as a task of this process, None: of the world."""
        context = owner.context.copy() if owner else contextvars.Context()
        return self.create_task(work, context=context)

    # ── processes ────────────────────────────────────────────────────────────────────────────────

    def thaw(self, owner: Owner) -> None:
        owner.condition = "running"
        self._ready.extend(owner.parked)
        owner.parked.clear()

    # ── what BaseEventLoop leaves to its subclasses ──────────────────────────────────────────────

    def _process_events(self, event_list: Any) -> None: ...

    def _write_to_self(self) -> None: ...


class _TimePasses:
    """In place of a selector: instead of waiting for sockets, time passes."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout != 0:
            self._loop.pass_time(timeout)
        return []

    def close(self) -> None: ...


_NOTHING = asyncio.Handle(lambda: None, (), asyncio.new_event_loop(), contextvars.Context())
_NOTHING._loop.close()  # type: ignore[attr-defined]
_NOTHING._cancelled = True  # type: ignore[attr-defined]
"""A callback that the loop passes over."""


class _SeededQueue(deque[asyncio.Handle]):
    """The ready callbacks; `popleft` takes any of them."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    def popleft(self) -> asyncio.Handle:
        if len(self) > 1:
            self.rotate(-int(self._rng.random() * len(self)))
        handle = super().popleft()
        owner: Owner | None = handle._context.get(OWNER)  # type: ignore[attr-defined]
        if owner is None or owner.condition == "running":
            return handle
        owner.parked.append(handle)
        return _NOTHING


def _owned_task(loop: Any, work: Any, **options: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
    context = options.get("context")
    owner = context.get(OWNER) if context is not None else OWNER.get()
    if owner is not None:
        owner.tasks.append(task)
    return task
