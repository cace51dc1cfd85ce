"""Posts requests from a thread while a test kills the daemon."""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.waiting import PATIENCE


class Posting(ABC):
    """Posts new requests inside `in_progress`, each again until it is acknowledged.

    `issued`: ids of all requests. `acknowledged`: ids of those answered 202.
    """

    def __init__(self, seed: int) -> None:
        self.issued: set[str] = set()
        self.acknowledged: set[str] = set()
        self.random = random.Random(seed)
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self.run, daemon=True)

    @abstractmethod
    def run(self) -> None:
        """Post until `stopped`."""

    def has_acknowledged(self, count: int) -> Callable[[], bool]:
        """Whether at least `count` requests are acknowledged, as a condition."""
        return lambda: len(self.acknowledged) >= count

    @contextmanager
    def in_progress(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            self._thread.join(PATIENCE)
