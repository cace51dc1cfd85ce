"""Reads, profiles and backfills pass the same contracts on both engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connector.store.database import open_database
from connector.store.sql import SqlStore, open_store
from connector.store.tables import metadata
from connector.testing.contracts.backfills import BackfillsContract
from connector.testing.contracts.bulk_observations import BulkObservationsContract
from connector.testing.contracts.event_sourced import EventSourcedContract
from connector.testing.contracts.profile_addresses import ProfileAddressesContract
from connector.testing.contracts.profiles import ProfilesContract
from connector.testing.contracts.reads import ReadsContract


class Contracts(
    BackfillsContract,
    BulkObservationsContract,
    EventSourcedContract,
    ProfileAddressesContract,
    ProfilesContract,
    ReadsContract,
):
    """The contracts of a store for people and their profiles."""


class TestSqlite(Contracts):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SqlStore]:
        store = await open_store(f"sqlite:///{tmp_path}/s.db")
        yield store
        await store.aclose()


class TestPostgres(Contracts):
    @pytest.fixture
    async def store(self, postgres_url: str) -> AsyncIterator[SqlStore]:
        store = await open_store(postgres_url)
        yield store
        await store.aclose()
        database = open_database(postgres_url)
        await database.write(
            lambda c: [c.execute(table.delete()) for table in metadata.tables.values()]
        )
        await database.aclose()
