"""A prepared statement does the same whoever runs it: the driver, or SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, event, insert, select, update

from connector.domain.errors import Problem, StoreError
from connector.store.prepared import Prepared, param, prepared_update
from connector.store.sql import SqlStore
from connector.store.tables import leases, outbox, people

T = TypeVar("T")
Run = Callable[[Callable[[Connection], T]], T]

_COLUMNS = ("connection", "platform_id", "email", "seen_at")
_INSERT = Prepared(
    insert(people).values({name: param(name) for name in _COLUMNS}).returning(people.c.id)
)
_BY_EMAIL = Prepared(
    select(people.c.email, people.c.seen_at)
    .where(
        people.c.connection == param("connection"),
        people.c.email.in_(param("emails", expanding=True)),
    )
    .order_by(people.c.email),
    many="emails",
)
_SEEN = Prepared(
    update(people)
    .where(people.c.email.in_(param("emails", expanding=True)))
    .values(seen_at=param("at"), gone_at=7),
    many="emails",
)


@pytest.fixture(params=["by itself", "listened to"])
def database(request: pytest.FixtureRequest, store: SqlStore) -> Iterator[SqlStore]:
    """The store; where something listens to statements SQLAlchemy runs them."""

    def listener(*_: Any) -> None: ...

    if request.param == "by itself":
        yield store
        return
    event.listen(store.database.engine, "before_cursor_execute", listener)
    yield store
    event.remove(store.database.engine, "before_cursor_execute", listener)


def _add(c: Connection, count: int) -> list[int]:
    numbers = range(count)
    rows = [
        _INSERT.first(c, connection="acme", platform_id=None, email=f"{n}@x.com", seen_at=n)
        for n in numbers
    ]
    return [id for (id,) in rows]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 300])
async def test_lists_of_any_length(database: SqlStore, count: int) -> None:
    def work(c: Connection) -> tuple[list[tuple[str, int]], int, list[int]]:
        assert len(set(_add(c, count))) == count
        emails = [f"{n}@x.com" for n in range(count)]
        found = [tuple(row) for row in _BY_EMAIL.rows(c, connection="acme", emails=emails)]
        changed = _SEEN.run(c, emails=emails, at=99)
        seen = c.execute(select(people.c.seen_at).where(people.c.gone_at == 7))
        return found, changed, list(seen.scalars())

    found, changed, seen = await database.database.write(work)
    assert sorted(found) == sorted((f"{n}@x.com", n) for n in range(count))
    assert (changed, seen) == (count, [99] * count)


async def test_an_empty_list_runs_nothing(database: SqlStore) -> None:
    def work(c: Connection) -> tuple[list[object], object, int]:
        nothing = {"connection": "acme", "emails": []}
        return _BY_EMAIL.rows(c, **nothing), _BY_EMAIL.first(c, **nothing), _SEEN.run(c, emails=[])

    assert await database.database.write(work) == ([], None, 0)


async def test_columns_without_a_value_have_their_default(database: SqlStore) -> None:
    names = ("lane", "due", "digest", "unique_id", "name", "occurred_at", "received_at", "via")
    statement = Prepared(insert(outbox).values({n: param(n) for n in (*names, "data")}))
    row = dict.fromkeys(("lane", "due", "occurred_at", "received_at"), 1)
    row |= {"unique_id": "u", "name": "n", "via": "webhook", "digest": b"d", "data": b""}

    def work(c: Connection) -> tuple[object, ...]:
        statement.run_all(c, [row, row | {"digest": b"e"}])
        columns = outbox.c.state, outbox.c.attempts, outbox.c.detail, outbox.c.digest
        return tuple(tuple(found) for found in c.execute(select(*columns).order_by(outbox.c.seq)))

    assert await database.database.write(work) == ((0, 0, "", b"d"), (0, 0, "", b"e"))


async def test_an_update_by_key_sets_the_columns_that_it_names(database: SqlStore) -> None:
    def work(c: Connection) -> list[tuple[object, ...]]:
        ids = _add(c, 2)
        statement = prepared_update(people, "id", ("email", "gone_at"))
        assert statement.run(c, row=ids[0], email=None, gone_at=3) == 1
        columns = people.c.email, people.c.gone_at, people.c.seen_at
        return [tuple(row) for row in c.execute(select(*columns).order_by(people.c.id))]

    assert await database.database.write(work) == [(None, 3, 0), ("1@x.com", None, 1)]


async def test_an_error_is_a_store_error_and_undoes_the_work(database: SqlStore) -> None:
    statement = Prepared(
        insert(leases).values({n: param(n) for n in ("resource", "holder", "token", "expires_at")})
    )
    row = {"resource": "r", "holder": "h", "token": 1, "expires_at": 1}
    with pytest.raises(StoreError) as caught:
        await database.database.write(lambda c: statement.run_all(c, [row, row]))
    assert caught.value.problem is Problem.STORE_UNAVAILABLE
    assert await database.database.read(lambda c: list(c.execute(select(leases)))) == []
