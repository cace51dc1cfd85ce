"""The store on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from connector.store import counters
from connector.store.sql import SqlStore, open_store, store_on
from connector.testing.fakes.store import memory_store
from tests.stores import delete_all

from .plans import RecordingDatabase, faults

_explained: dict[str, set[str]] = {}
"""Engine → statements whose plans were looked at."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever takes `store` runs in the event loop that it was opened in."""
    for item in items:
        if "_opened" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["memory", "sqlite", "postgresql"]
)
async def _opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[RecordingDatabase, str] | None]:
    """A database and its address, open while a module's tests run on this engine. None: each test
    has one in memory of its own."""
    if request.param == "memory":
        yield None
        return
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('store')}/s.db"
    else:
        url = request.getfixturevalue("postgres_url")
    opened = await open_store(url)
    yield RecordingDatabase(opened.database), url
    await opened.aclose()


@pytest_asyncio.fixture(loop_scope="module")
async def store(_opened: tuple[RecordingDatabase, str] | None) -> AsyncIterator[SqlStore]:
    """An empty store, on each engine in turn."""
    if _opened is None:
        made = memory_store()
        yield made
        assert await made.database.read(counters.miscounted) == []
        return
    database, url = _opened
    yield store_on(database, url)
    miscounted = await database.read(counters.miscounted)
    found = await faults(database, _explained.setdefault(database.engine.dialect.name, set()))
    await database.write(delete_all)
    assert miscounted == []
    assert not found, "\n".join(found)
