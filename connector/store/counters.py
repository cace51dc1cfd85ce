"""Counters that the database itself keeps, in the transaction that changes what is counted.

Triggers keep them, so that no statement can forget to: claims, merges, erasure and retention change
them alike (docs/decisions/0030-growth.md). SQLite adds to one row per counter, owner and key. On
PostgreSQL, where transactions run beside each other and would wait for such a row, each statement
inserts what it changed, and `fold` adds that up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from connector.domain.actions import Step
from connector.domain.records import State
from connector.store.database import on_request
from connector.store.prepared import Prepared, param
from connector.store.tables.counts import ALL_ROWS, COUNTERS, Counter, CounterName, counts

# ── read ─────────────────────────────────────────────────────────────────────────────────────────


_QUERY = select(counts.c.owner, counts.c.key, func.sum(counts.c.rows)).where(
    counts.c.name == param("name")
)
_BY = counts.c.owner, counts.c.key
_OF_ALL = Prepared(_QUERY.group_by(*_BY))
_OF_ONE = Prepared(_QUERY.where(counts.c.owner == param("owner")).group_by(*_BY))


def load(c: Connection, name: CounterName, owner: object = None) -> dict[tuple[str, str], int]:
    """(owner, key) → rows, of one owner or of all."""
    if owner is None:
        found = _OF_ALL.rows(c, name=name)
    else:
        found = _OF_ONE.rows(c, name=name, owner=str(owner))
    return {(owner, key): int(rows) for owner, key, rows in found if rows}


@dataclass(frozen=True, slots=True)
class Lane:
    """What a lane's queue holds, by state; what is held or dead also by problem code."""

    states: Mapping[State, int]
    stuck: Mapping[tuple[State, str], int]


def load_queue(c: Connection, name: CounterName) -> Mapping[int, Lane]:
    """Lane → its counts; lanes without any have none."""
    states: dict[int, dict[State, int]] = defaultdict(lambda: defaultdict(int))
    stuck: dict[int, dict[tuple[State, str], int]] = defaultdict(dict)
    for (lane, key), rows in load(c, name).items():
        number, _, problem = key.partition(" ")
        state = State(int(number))
        states[int(lane)][state] += rows
        if state in (State.HELD, State.DEAD):
            stuck[int(lane)][state, problem] = rows
    return defaultdict(
        lambda: Lane(defaultdict(int), {}),
        {lane: Lane(found, stuck[lane]) for lane, found in states.items()},
    )


def load_steps(c: Connection) -> Mapping[tuple[int, State, Step], int]:
    """(lane, state, step) → actions that are ready or claimed."""
    found: dict[tuple[int, State, Step], int] = defaultdict(int)
    for (lane, key), rows in load(c, "steps").items():
        state, step = key.split(" ")
        found[int(lane), State(int(state)), Step(int(step))] = rows
    return found


def load_members(c: Connection, target: int) -> Mapping[tuple[str, ...], int]:
    """(wanted, confirmed, added_by_us, unconfirmed, `waiting` | `removed` | ``) → members of the
    target; the first four are `1`, `0` or, where unknown, `-`."""
    found = load(c, "members", target).items()
    return {tuple(key.split(" ")): rows for (_, key), rows in found}


# ── install ──────────────────────────────────────────────────────────────────────────────────────


def install(c: Connection) -> None:
    """Create the triggers and count what there is. Repeated after every migration, which may have
    made a table again."""
    c.execute(counts.delete())
    if c.dialect.name == "postgresql":
        c.exec_driver_sql("CREATE SEQUENCE IF NOT EXISTS counts_slot")
    for counter in COUNTERS:
        statements = _on_postgresql if c.dialect.name == "postgresql" else _on_sqlite
        for statement in statements(counter):
            c.exec_driver_sql(statement)
        owner, key, rows = _by_one(counter)
        c.exec_driver_sql(
            "INSERT INTO counts (name, owner, key, slot, rows) "
            f"SELECT '{counter.name}', {owner}, {key}, 0, COUNT(*) {rows}"
        )


def _by_one(counter: Counter) -> tuple[str, str, str]:
    """(owner, key, what a SELECT of them that counts is followed by)."""
    owner, key, where = counter.of("r")
    return owner, key, f"FROM {counter.table.name} r WHERE {where} GROUP BY {owner}, {key}"


@on_request
def miscounted(c: Connection) -> list[tuple[str, str, str, int, int]]:
    """(counter, owner, key, rows that it has, rows there are) of what is wrong. Reads all rows."""
    found = []
    for counter in COUNTERS:
        owner, key, rows = _by_one(counter)
        counted = c.exec_driver_sql(f"SELECT {owner}, {key}, COUNT(*) {rows}")
        real = {(owner, key): int(number) for owner, key, number in counted}
        stored = load(c, counter.name)
        found += [
            (counter.name, *kind, stored.get(kind, 0), real.get(kind, 0))
            for kind in sorted(real.keys() | stored.keys())
            if stored.get(kind) != real.get(kind)
        ]
    return found


def fold(c: Connection) -> None:
    """Add up what statements have inserted since. Only on PostgreSQL is there any."""
    if c.dialect.name != "postgresql":
        return
    c.exec_driver_sql(
        "WITH changed AS (DELETE FROM counts WHERE slot > 0 RETURNING name, owner, key, rows) "
        "INSERT INTO counts (name, owner, key, slot, rows) "
        "SELECT name, owner, key, 0, SUM(rows) FROM changed GROUP BY name, owner, key "
        "ORDER BY name, owner, key "
        "ON CONFLICT (name, owner, key, slot) DO UPDATE SET rows = counts.rows + excluded.rows"
    )


def _on_sqlite(counter: Counter) -> list[str]:
    name, table, columns = counter.name, counter.table.name, ", ".join(counter.columns)
    (owner, key, where), (old_owner, old_key, old_where) = counter.of("NEW"), counter.of("OLD")
    into = "INSERT INTO counts (name, owner, key, slot, rows)"
    add = f"SELECT '{name}', {owner}, {key}, 0, 1 WHERE {where}"
    subtract = f"SELECT '{name}', {old_owner}, {old_key}, 0, -1 WHERE {old_where}"
    sums = "ON CONFLICT (name, owner, key, slot) DO UPDATE SET rows = rows + excluded.rows;"
    changed = " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in counter.columns)
    if counter.where != ALL_ROWS:
        # Most changes are of rows that are counted neither before nor after.
        changed = f"(({old_where}) OR ({where})) AND ({changed})"
    triggers = {
        "insert": f"AFTER INSERT ON {table} BEGIN {into} {add} {sums} END",
        "update": f"AFTER UPDATE OF {columns} ON {table} WHEN {changed} "
        f"BEGIN {into} {subtract} UNION ALL {add} {sums} END",
        "delete": f"AFTER DELETE ON {table} BEGIN {into} {subtract} {sums} END",
    }
    found = []
    for event, text in triggers.items():
        found.append(f"DROP TRIGGER IF EXISTS count_{name}_{event}")
        found.append(f"CREATE TRIGGER count_{name}_{event} {text}")
    return found


def _on_postgresql(counter: Counter) -> list[str]:
    name, table = counter.name, counter.table.name

    def rows(source: str, number: int) -> str:
        owner, key, where = counter.of("r")
        return f"SELECT {owner} AS owner, {key} AS key, {number} AS n FROM {source} r WHERE {where}"

    def store(rows: str) -> str:
        return (
            "INSERT INTO counts (name, owner, key, slot, rows) "
            f"SELECT '{name}', g.owner, g.key, nextval('counts_slot'), g.n FROM "
            f"(SELECT owner, key, SUM(n) AS n FROM ({rows}) x GROUP BY owner, key "
            "HAVING SUM(n) <> 0) g;"
        )

    new, old = rows("new_rows", 1), rows("old_rows", -1)
    bodies = {
        "insert": (store(new), "NEW TABLE AS new_rows"),
        "update": (store(f"{new} UNION ALL {old}"), "OLD TABLE AS old_rows NEW TABLE AS new_rows"),
        "delete": (store(old), "OLD TABLE AS old_rows"),
    }
    found = []
    for event, (body, transition) in bodies.items():
        trigger = f"count_{name}_{event}"
        found += [
            f"CREATE OR REPLACE FUNCTION {trigger}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$count$ BEGIN {body} RETURN NULL; END $count$",
            f"DROP TRIGGER IF EXISTS {trigger} ON {table}",
            f"CREATE TRIGGER {trigger} AFTER {event.upper()} ON {table} "
            f"REFERENCING {transition} FOR EACH STATEMENT EXECUTE FUNCTION {trigger}()",
        ]
    return found
