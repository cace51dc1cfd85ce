"""Hints between replicas: who listens uses the address as the store does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from connector.domain.errors import Problem, StoreError
from connector.store.admin.hints import SqlHints
from connector.store.database import Database, open_database


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    opened = open_database("sqlite://")
    yield opened
    await opened.aclose()


async def test_the_listener_connects_as_the_store_does(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    async def connect(**options: Any) -> None:
        asked.append(options)
        raise OSError

    monkeypatch.setattr(asyncpg, "connect", connect)
    hints = SqlHints(database, "postgresql://ada:p%40ss@db.example.com:6543/loyalty?ssl=require")
    with pytest.raises(StoreError) as error:
        await hints.receive(lambda name: None, lambda: None)
    assert error.value.problem is Problem.STORE_UNAVAILABLE
    assert asked == [
        {
            "user": "ada",
            "password": "p@ss",
            "host": "db.example.com",
            "port": 6543,
            "database": "loyalty",
            "ssl": "require",
        }
    ]
