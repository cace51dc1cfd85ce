"""The store on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connector.store import counters
from connector.store.sql import SqlStore, open_store, store_on
from connector.store.tables import metadata
from connector.testing.fakes.store import memory_store

from .plans import RecordingDatabase, faults

_explained: dict[str, set[str]] = {}
"""Engine → statements whose plans were looked at."""


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    """An empty store, on each engine in turn."""
    if request.param == "memory":
        made = memory_store()
        yield made
        assert await made.database.read(counters.miscounted) == []
        return
    on_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/s.db" if on_file else request.getfixturevalue("postgres_url")
    opened = await open_store(url)
    recorded = RecordingDatabase(opened.database)
    made = store_on(recorded, url)
    yield made
    miscounted = await made.database.read(counters.miscounted)
    found = await faults(recorded, _explained.setdefault(request.param, set()))
    await made.database.write(
        lambda c: [c.execute(table.delete()) for table in metadata.tables.values()]
    )
    await made.aclose()
    assert miscounted == []
    assert not found, "\n".join(found)
