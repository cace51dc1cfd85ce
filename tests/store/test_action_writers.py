"""Several processes on one store: each takes calls, and an action is still one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from connector.domain.actions import ActionReceipt, Caps, Conflict
from connector.domain.lanes import DeliveryMode, Lane, Millis
from connector.store.database import open_database
from connector.store.queues import queue
from connector.store.sql import SqlStore, open_store
from connector.store.tables import metadata
from connector.testing.contracts.actions import ActionHarness, make_harness, make_request
from connector.testing.fakes.clock import START

_NOW = Millis(START)


@pytest.fixture(params=["sqlite", "postgresql"])
async def two(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[SqlStore, SqlStore]]:
    """Two stores at one address, as two processes have them."""
    on_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/s.db" if on_file else request.getfixturevalue("postgres_url")
    first, second = await open_store(url), await open_store(url)
    yield first, second
    await first.aclose()
    await second.aclose()
    database = open_database(url)
    await database.write(
        lambda c: [c.execute(table.delete()) for table in metadata.tables.values()]
    )
    await database.aclose()


async def harnesses(two: tuple[SqlStore, SqlStore]) -> list[ActionHarness]:
    harness = await make_harness(two[0])
    return [harness, ActionHarness(two[1], harness.lane, harness.fence)]


async def test_three_concurrent_requests_on_two_processes_have_one_effect(
    two: tuple[SqlStore, SqlStore],
) -> None:
    pair = await harnesses(two)
    for key in range(10):
        calls = [harness.add(make_request(key=str(key))) for harness in (*pair, pair[0])]
        answers = await asyncio.gather(*calls)
        assert sorted(a.accepted for a in answers if isinstance(a, ActionReceipt)) == [0, 0, 1]
    assert len(await pair[0].all_actions()) == 10


async def test_a_cap_holds_for_two_processes_together(two: tuple[SqlStore, SqlStore]) -> None:
    pair, caps = await harnesses(two), Caps(per_person=3, total=0)
    calls = [pair[n % 2].add(make_request(key=str(n)), caps=caps) for n in range(10)]
    answers = await asyncio.gather(*calls)
    held = [a.held for a in answers if isinstance(a, ActionReceipt)]
    assert (len(held), sum(held)) == (10, 7)


async def test_two_contents_for_one_key_give_one_conflict(
    two: tuple[SqlStore, SqlStore],
) -> None:
    pair = await harnesses(two)
    answers = await asyncio.gather(*(d.add(make_request(amount=n + 1)) for n, d in enumerate(pair)))
    assert {type(answer) for answer in answers} == {ActionReceipt, Conflict}


# ── plans ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    store = await open_store(f"sqlite:///{tmp_path}/s.db")
    yield store
    await store.aclose()


async def plans(store: SqlStore, work: Any) -> list[str]:
    """EXPLAIN QUERY PLAN of every statement on actions that `work` runs."""
    found: list[str] = []

    def explained(c: Connection) -> None:
        said: list[tuple[str, Any]] = []

        def note(_: Any, __: Any, statement: str, values: Any, *___: Any) -> None:
            said.append((statement, values))

        event.listen(c, "before_cursor_execute", note)
        work(c)
        event.remove(c, "before_cursor_execute", note)
        for statement, values in said:
            if "actions" in statement and not statement.startswith("INSERT"):
                rows = c.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
                found.extend(str(row[3]) for row in rows)

    await store._database.write(explained)
    return found


async def filled(store: SqlStore) -> Lane:
    harness = await make_harness(store)
    await harness.add(*(make_request(f"p{n}@example.com", key=str(n)) for n in range(500)))
    await store._database.write(lambda c: c.exec_driver_sql("ANALYZE"))
    return harness.lane


async def test_a_claim_reads_ready_actions_and_uses_the_index_for_earlier_ones(
    store: SqlStore,
) -> None:
    lane = await filled(store)
    spec = queue.ClaimSpec(lane.id, 7, _NOW, 50, DeliveryMode.BATCH, "")
    found = await plans(store, lambda c: store.actions._claim_entries(c, spec))
    assert not any(line.startswith("SCAN actions") for line in found)
    assert any("actions_ready" in line for line in found)
    assert any("earlier" in line and "actions_unsent" in line for line in found)


async def test_recover_reads_the_claimed_index(store: SqlStore) -> None:
    await filled(store)
    found = await plans(store, lambda c: store.actions._recover(c, _NOW))
    assert found
    assert all("actions_claimed" in line for line in found)
