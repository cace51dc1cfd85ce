"""No statement of a lane, a report or a recovery scans a table: the plans of both engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, select, update

from connector.domain.actions import Caps
from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, LaneId, Millis, MinuteCount
from connector.domain.outcomes import Accepted, Outcome, Retry
from connector.domain.records import Page, State
from connector.ports import (
    AuditEntry,
    Authorization,
    DeadLetterFilter,
    Fence,
    ProcessState,
    RetryPolicy,
    StuckPosition,
)
from connector.store.sql import SqlStore, open_store
from connector.store.tables import actions, profiles
from connector.testing.contracts.actions import make_harness, make_request
from connector.testing.contracts.store import NOW, acquire_lease, record
from connector.testing.contracts.unanswered_claims import QUEUES, TOKEN
from tests.stores import delete_all, truncate_all


class Plans:
    """The plans of the statements that name a table."""

    def __init__(self, lines: list[str], table: str) -> None:
        self._lines = lines
        self._table = table

    def count(self, index: str) -> int:
        """How many steps read this index."""
        return sum(index in line for line in self._lines)

    @property
    def scans(self) -> list[str]:
        """Steps that read the whole table."""
        sqlite, postgresql = f"SCAN {self._table}", f"Seq Scan on {self._table}"
        return [
            line
            for line in self._lines
            if postgresql in line or (line.startswith(sqlite) and "INDEX" not in line)
        ]

    @property
    def sorts(self) -> list[str]:
        return [line for line in self._lines if "TEMP B-TREE" in line]


async def explain(store: SqlStore, table: str, call: Callable[[], Awaitable[Any]]) -> Plans:
    """Run `call`, then explain each of its statements that reads or changes `table`."""
    statements: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, values: Any, ___: Any, many: bool) -> None:
        if many:  # rows written back by their keys
            return
        statements.append((statement, values))

    event.listen(store.database.engine, "before_cursor_execute", note)
    await call()
    event.remove(store.database.engine, "before_cursor_execute", note)
    on_sqlite = store.database.engine.dialect.name == "sqlite"

    def work(c: Connection) -> list[str]:
        if not on_sqlite:
            # A small table is read whole, unless that is made expensive.
            c.exec_driver_sql("SET LOCAL enable_seqscan = off")
        prefix, column = ("EXPLAIN QUERY PLAN", 3) if on_sqlite else ("EXPLAIN", 0)
        lines: list[str] = []
        for statement, values in statements:
            if table in statement and not statement.startswith("INSERT"):
                rows = c.exec_driver_sql(f"{prefix} {statement}", values)
                lines += [str(row[column]).strip() for row in rows]
        return lines

    lines = await store.database.write(work)
    assert lines, "no statement names the table"
    return Plans(lines, table)


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    """An empty store, on each engine that plans for a file in turn."""
    on_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/s.db" if on_file else request.getfixturevalue("postgres_url")
    made = await open_store(url)
    if not on_file:
        # PostgreSQL plans by the size of the files, which grow with what earlier tests deleted.
        await made.database.write(truncate_all)
    yield made
    await made.database.write(delete_all)
    await made.aclose()


async def fill_outbox(store: SqlStore) -> tuple[Lane, Fence]:
    lane = await store.lanes.ensure("acme", "klaviyo", "event")
    for _ in range(8):  # so many that no planner prefers to walk them
        await store.outbox.append([Page(lane, "webhook", [record() for _ in range(500)], NOW)])
    await store.database.write(lambda c: c.exec_driver_sql("ANALYZE"))
    return lane, await acquire_lease(store)


async def test_an_index_that_a_statement_names_is_used_on_sqlite(store: SqlStore) -> None:
    """Whatever the statistics say: SQLAlchemy has no words for it."""
    query = select(actions.c.seq).with_hint(actions, "INDEXED BY actions_by_time", "sqlite")
    plans = await explain(store, "actions", lambda: store.database.read(lambda c: c.execute(query)))
    assert plans.count("actions_by_time") == (store.database.engine.dialect.name == "sqlite")


async def test_ready_uses_the_ready_index(store: SqlStore) -> None:
    lane, _ = await fill_outbox(store)
    plans = await explain(store, "outbox", lambda: store.outbox.ready(lane.id, now=NOW, limit=51))
    assert plans.scans == []
    assert plans.count("outbox_ready") >= 8


async def test_a_claim_reads_the_ready_index_in_order(store: SqlStore) -> None:
    lane, fence = await fill_outbox(store)
    plans = await explain(
        store,
        "outbox",
        lambda: store.outbox.claim(
            lane, fence, now=NOW, limit=100, mode=DeliveryMode.BATCH, mapping="v1"
        ),
    )
    assert plans.scans == []
    assert plans.sorts == []
    assert plans.count("outbox_ready")


async def test_a_profile_claim_reads_only_one_persons_events(store: SqlStore) -> None:
    _, fence = await fill_outbox(store)
    lane = await store.lanes.ensure("acme", "klaviyo", "profile")
    plans = await explain(
        store,
        "outbox",
        lambda: store.profiles.claim(
            lane, fence, now=NOW, limit=100, mode=DeliveryMode.BATCH, mapping=""
        ),
    )
    assert plans.scans == []
    assert plans.count("outbox_by_person") or plans.count("outbox_claimed")


async def test_dead_letters_are_found_in_order_and_without_a_scan(store: SqlStore) -> None:
    await fill_outbox(store)

    async def look() -> None:
        await store.dead_letters.find()
        await store.dead_letters.find(DeadLetterFilter(text="x"), before=900)
        await store.dead_letters.count(DeadLetterFilter(connection="acme", state=State.DEAD))
        await store.dead_letters.entries(DeadLetterFilter(connection="acme", cause="M20"), limit=9)
        await store.dead_letters.retry(DeadLetterFilter(cause="K400"), now=NOW)
        await store.dead_letters.discard(DeadLetterFilter(), reason="", after=5, now=NOW)

    plans = await explain(store, "outbox", look)
    assert plans.scans == []
    assert plans.count("outbox_stuck_by_seq") >= 4
    assert plans.sorts == []


async def test_people_with_a_cause_are_found_by_the_index_of_their_queue(store: SqlStore) -> None:
    lane = await store.lanes.ensure("acme", "klaviyo", "profile")
    await store.database.write(
        lambda c: c.execute(
            profiles.insert(),
            [
                {
                    "person": n,
                    "lane": lane.id,
                    "state": State.DEAD if n % 9 == 0 else State.ACCEPTED,
                    "problem": f"K40{n % 2 * 9}" if n % 9 == 0 else None,
                    "due": NOW,
                    "identity": "{}",
                    "wanted": "{}",
                    "confirmed": "{}",
                }
                for n in range(1, 4000)
            ],
        )
    )
    await store.database.write(lambda c: c.exec_driver_sql("ANALYZE"))
    after = StuckPosition("profiles", 2000)
    plans = await explain(
        store, "profiles", lambda: store.stuck_people.find(cause="K400", after=after, limit=5)
    )
    assert (plans.scans, plans.sorts) == ([], [])
    assert plans.count("profiles_stuck") == 1


async def test_what_a_process_reports_and_what_is_stuck_is_read_by_an_index(
    store: SqlStore,
) -> None:
    stuck = await explain(store, "counts", store.dead_letters.groups)
    assert stuck.scans == []
    await store.process_reports.save(ProcessState("one", NOW, frozenset(), "{}"))
    report = await explain(store, "process_reports", store.process_reports.latest)
    assert report.scans == []

    async def last_reload() -> None:
        await store.commands.last_reload(not_by="one")

    reloads = await explain(store, "commands", last_reload)
    assert (reloads.scans, reloads.sorts) == ([], [])


async def test_the_throughput_of_the_last_hours_is_read_by_its_index(store: SqlStore) -> None:
    async def work() -> None:
        for minute in range(3):
            await store.facts.add_throughput([MinuteCount(LaneId(1), minute, 1)])
        await store.facts.throughput(since_minute=2)

    plans = await explain(store, "throughput", work)
    assert plans.scans == []
    assert plans.count("throughput_by_minute") == 4


async def test_a_released_field_reads_only_who_waits_and_their_count_no_one(
    store: SqlStore,
) -> None:
    lane = await store.lanes.ensure("acme", "klaviyo", "profile")

    async def work() -> None:
        unsets = store.unset_fields
        await unsets.note(lane.id, {"tier": 99}, writes=99, earlier_writes=0, now=NOW)
        await unsets.release(lane.id, "tier", allowed=99, now=NOW)

    plans = await explain(store, "profiles", work)
    assert plans.scans == []
    assert plans.count("profiles_stuck") >= 1
    held = await explain(store, "counts", lambda: store.unset_fields.held(lane.id))
    assert held.scans == []
    assert (await explain(store, "unset_fields", work)).scans == []


async def test_pruning_what_is_held_or_dead_reads_only_that(store: SqlStore) -> None:
    await fill_outbox(store)
    keep = {State.HELD: 1_000, State.DEAD: 1_000}
    plans = await explain(
        store,
        "outbox",
        lambda: store.maintenance.prune_records(now=NOW, keep=keep, limit=100),
    )
    assert plans.scans == []
    assert plans.count("outbox_stuck_by_seq") == 1
    assert plans.sorts == []


async def test_recovery_reads_only_claimed_entries(store: SqlStore) -> None:
    _, fence = await fill_outbox(store)
    plans = await explain(store, "outbox", lambda: store.outbox.recover(fence, now=NOW))
    assert plans.scans == []
    assert plans.count("outbox_claimed") == 2, "once for the profiles of their people"


async def fill_actions(store: SqlStore) -> tuple[Lane, Fence, Millis]:
    harness = await make_harness(store)
    await harness.add(*(make_request(f"p{n}@example.com", key=str(n)) for n in range(500)))
    await store.database.write(lambda c: c.exec_driver_sql("ANALYZE"))
    return harness.lane, harness.fence, NOW


async def test_a_claim_reads_ready_actions_and_uses_the_index_for_earlier_ones(
    store: SqlStore,
) -> None:
    lane, fence, now = await fill_actions(store)
    plans = await explain(
        store,
        "actions",
        lambda: store.actions.claim(
            lane, fence, now=now, limit=50, mode=DeliveryMode.BATCH, mapping=""
        ),
    )
    assert plans.scans == []
    assert plans.count("actions_ready")
    assert plans.count("actions_unsent")


async def test_recovery_reads_only_claimed_actions(store: SqlStore) -> None:
    _, fence, now = await fill_actions(store)
    plans = await explain(store, "actions", lambda: store.actions.recover(fence, now=now))
    assert plans.scans == []
    assert plans.count("actions_claimed") == 1


async def fill_people(store: SqlStore) -> Lane:
    """500 people by id and 500 by address."""
    lane = await store.lanes.ensure("acme", "klaviyo", "event")
    by_id = [record(email=None, person=f"p{n}") for n in range(500)]
    by_address = [record(email=f"a{n}@example.com", person=None) for n in range(500)]
    await store.outbox.append([Page(lane, "webhook", [*by_id, *by_address], NOW)])
    await store.database.write(lambda c: c.exec_driver_sql("ANALYZE"))
    return lane


@pytest.mark.parametrize("table", ["identifiers", "people", "outbox", "actions", "merges"])
async def test_a_merge_reads_only_what_belongs_to_its_people(store: SqlStore, table: str) -> None:
    lane = await fill_people(store)
    harness = await make_harness(store)
    await harness.add(*(make_request(f"a{n}@example.com", key=str(n)) for n in range(300)))
    await store.database.write(lambda c: c.exec_driver_sql("ANALYZE"))
    one = record(email="a7@example.com", person="p7")

    async def merge() -> None:
        await store.outbox.append([Page(lane, "webhook", [one], NOW)])

    plans = await explain(store, table, merge)
    assert plans.scans == []


async def test_the_release_of_held_actions_reads_only_those_that_can_be_released(
    store: SqlStore,
) -> None:
    lane, _, now = await fill_actions(store)
    caps = Caps(per_person=20, total=1_000)
    decisions = store.action_decisions
    values = {"state": State.HELD, "problem": Problem.ACTION_PERSON.value, "releasable": 1}
    some = update(actions).where(actions.c.seq % 50 == 0).values(values)
    await store.database.write(lambda c: c.execute(some))
    await store.database.write(lambda c: c.exec_driver_sql("ANALYZE"))
    plans = await explain(
        store, "actions", lambda: decisions.release_identified(lane, caps=caps, now=now)
    )
    assert plans.scans == []
    assert plans.count("actions_releasable") or plans.count("actions_held")
    plans = await explain(store, "actions", decisions.releasable)
    assert plans.scans == []
    assert plans.count("actions_releasable") or plans.count("actions_held")
    plans = await explain(
        store, "actions", lambda: decisions.release_waiting(lane, caps=caps, now=now)
    )
    assert plans.scans == []
    assert plans.count("actions_stuck") or plans.count("actions_held")


async def test_the_release_of_waiting_records_reads_only_held_ones(store: SqlStore) -> None:
    lane, _ = await fill_outbox(store)
    plans = await explain(store, "outbox", lambda: store.outbox.release_waiting(lane.id, now=NOW))
    assert plans.scans == []
    assert plans.count("outbox_stuck")


async def test_authorizations_are_found_and_deleted_by_index(store: SqlStore) -> None:
    step = Authorization("d", "state", "acme", NOW, Millis(NOW + 1000))
    for n in range(300):
        await store.authorizations.open(replace(step, digest=f"d{n}"))
    await store.database.write(lambda c: c.exec_driver_sql("ANALYZE"))

    async def look() -> None:
        await store.authorizations.open(step)
        await store.authorizations.latest("acme", since=NOW)

    plans = await explain(store, "authorizations", look)
    assert plans.scans == []
    assert plans.sorts == []


@pytest.mark.parametrize("name", QUEUES)
async def test_giving_a_claim_back_reads_an_index(store: SqlStore, name: str) -> None:
    queue = await QUEUES[name](store)
    assert await queue.claim(TOKEN)
    await store.database.write(lambda c: c.exec_driver_sql("ANALYZE"))
    table = "outbox" if name == "events" else name
    plans = await explain(store, table, lambda: queue.give_back(TOKEN))
    assert plans.scans == []


@pytest.mark.parametrize("name", QUEUES)
async def test_what_is_tried_again_at_once_is_found_by_index(store: SqlStore, name: str) -> None:
    queue = await QUEUES[name](store)
    claim = await queue.claim()
    assert claim
    later = [Retry(entry.seq, Problem.KLAVIYO_UNAVAILABLE, 60.0) for entry in claim.entries]
    await queue.queue.settle(claim, later, now=queue.at, policy=RetryPolicy(3_600_000))
    await store.database.write(lambda c: c.exec_driver_sql("ANALYZE"))
    table = "outbox" if name == "events" else name
    plans = await explain(store, table, lambda: queue.queue.retry_now(queue.lane.id, now=queue.at))
    assert plans.scans == []


async def test_a_bulk_request_that_fails_is_settled_as_one_that_succeeds(store: SqlStore) -> None:
    """Not record by record: on PostgreSQL each statement is a round trip."""

    async def statements(outcome: Callable[[int], Outcome], first: int) -> int:
        records = [record(f"r{first + n}") for n in range(200)]
        await store.outbox.append([Page(lane, "webhook", records, Millis(NOW))])
        claim = await store.outbox.claim(
            lane, fence, now=Millis(NOW), limit=200, mode=DeliveryMode.BATCH, mapping="v1"
        )
        assert claim
        count = 0

        def note(*_: Any) -> None:
            nonlocal count
            count += 1

        engine = store.database.engine
        event.listen(engine, "before_cursor_execute", note)
        outcomes = [outcome(entry.seq) for entry in claim.entries]
        settled = await store.outbox.settle(
            claim, outcomes, now=Millis(NOW), policy=RetryPolicy(3_600_000)
        )
        event.remove(engine, "before_cursor_execute", note)
        assert settled.changed == 200
        return count

    lane, fence = await store.lanes.ensure("acme", "klaviyo", "event"), await acquire_lease(store)
    accepted = await statements(lambda seq: Accepted(seq, "r1"), 0)
    failed = await statements(lambda seq: Retry(seq, Problem.KLAVIYO_UNAVAILABLE, 60.0), 1_000)
    assert failed <= 2 * accepted + 4


async def test_the_audit_log_is_read_and_pruned_by_index(store: SqlStore) -> None:
    for n in range(300):
        await store.audit.record(AuditEntry(Millis(NOW + n), "ana", "pause", f"c{n % 7}"))
    await store.database.write(lambda c: c.exec_driver_sql("ANALYZE"))

    async def look() -> None:
        await store.audit.find(connection="c1", limit=10)
        await store.audit.find(before=200, limit=10)
        await store.audit.prune(before=NOW, limit=10)

    plans = await explain(store, "audit", look)
    assert plans.scans == []
    assert plans.sorts == []
