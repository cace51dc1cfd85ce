"""How many rows there are of each kind, kept by triggers (connector.store.counters)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import BigInteger, Column, Table, Text
from sqlmodel import Field

from connector.domain.errors import Problem
from connector.store.tables.columns import Bounded, metadata
from connector.store.tables.people import people
from connector.store.tables.queues import actions, memberships, outbox, profiles, reads


class Counts(Bounded, table=True):
    """`rows` rows of the kind `key` belong to `owner`, according to the counter `name`. Several
    rows that differ in their `slot` are added up: on PostgreSQL every statement adds one."""

    __tablename__ = "counts"
    __table_args__ = ({"sqlite_with_rowid": False},)

    name: str = Field(sa_column=Column(Text, primary_key=True))
    owner: str = Field(sa_column=Column(Text, primary_key=True))
    key: str = Field(sa_column=Column(Text, primary_key=True))
    slot: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    rows: int = Field(sa_type=BigInteger)


counts = metadata.tables["counts"]

CounterName = Literal[
    "outbox",
    "reads",
    "profiles",
    "memberships",
    "actions",
    "steps",
    "mappings",
    "unsets",
    "members",
    "people",
]


ALL_ROWS = "1 = 1"


@dataclass(frozen=True, slots=True)
class Counter:
    """Counts the rows of `table` that meet `where`, by `owner` and `key`: SQL expressions in which
    `$` is the row, of the `columns`."""

    name: CounterName
    table: Table
    owner: str
    key: str
    columns: tuple[str, ...]
    where: str = ALL_ROWS

    def of(self, row: str) -> tuple[str, str, str]:
        """(owner, key, condition) of a row."""
        owner = f"CAST({self.owner} AS TEXT)".replace("$", row)
        return owner, self.key.replace("$", row), self.where.replace("$", row)


_STATE = "CAST($.state AS TEXT)"


def _queue(name: CounterName, table: Table) -> Counter:
    """What waits or is stuck in each lane, the latter by its problem."""
    stuck = "CASE WHEN $.state IN (4, 5) THEN ' ' || COALESCE($.problem, '') ELSE '' END"
    key, columns = f"{_STATE} || {stuck}", ("lane", "state", "problem")
    return Counter(name, table, "$.lane", key, columns, where="$.state IN (0, 1, 4, 5)")


_MEMBER = ("wanted", "confirmed", "added_by_us", "unconfirmed")
_WAITING_OR_REMOVED = (
    "CASE WHEN $.state IN (0, 1) THEN 'waiting' "
    f"WHEN $.state = 4 AND $.problem = '{Problem.REMOVED_BY_HAND.value}' THEN 'removed' "
    "ELSE '' END"
)
COUNTERS = (
    _queue("outbox", outbox),
    _queue("reads", reads),
    _queue("profiles", profiles),
    _queue("memberships", memberships),
    _queue("actions", actions),
    Counter(
        "steps",
        actions,
        "$.lane",
        f"{_STATE} || ' ' || CAST($.step AS TEXT)",
        ("lane", "state", "step"),
        where="$.state IN (0, 1)",
    ),
    Counter(
        "mappings",
        profiles,
        "$.lane",
        "$.mapping",
        ("lane", "mapping"),
        where="$.mapping IS NOT NULL",
    ),
    Counter(
        "unsets",
        profiles,
        "$.lane",
        "$.detail",
        ("lane", "state", "problem", "detail"),
        where=f"$.state = 4 AND $.problem = '{Problem.MASS_UNSET.value}'",
    ),
    Counter(
        "members",
        memberships,
        "$.target",
        " || ' ' || ".join(
            [*(f"COALESCE(CAST($.{name} AS TEXT), '-')" for name in _MEMBER), _WAITING_OR_REMOVED]
        ),
        ("target", *_MEMBER, "state", "problem"),
    ),
    Counter(
        "people",
        people,
        "$.connection",
        "CASE WHEN $.gone_at IS NOT NULL THEN 'gone' WHEN $.email IS NULL THEN 'held' "
        "ELSE 'known' END",
        ("connection", "gone_at", "email"),
    ),
)
