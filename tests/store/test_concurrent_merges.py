"""People are merged by one process while another stores records and actions about them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connector.domain.lanes import Millis
from connector.domain.records import Page
from connector.store.admin import integrity
from connector.store.database import open_database
from connector.store.sql import SqlStore, open_store
from connector.testing.contracts.actions import ActionHarness, make_harness, make_request
from connector.testing.contracts.identity import append, settle_reads
from connector.testing.contracts.store import NOW, record
from tests.stores import delete_all

ROUNDS = 25


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    on_file = request.param == "sqlite"
    return f"sqlite:///{tmp_path}/s.db" if on_file else request.getfixturevalue("postgres_url")


@pytest.fixture
async def two(url: str) -> AsyncIterator[tuple[SqlStore, SqlStore]]:
    first, second = await open_store(url), await open_store(url)
    yield first, second
    await first.aclose()
    await second.aclose()
    database = open_database(url)
    await database.write(delete_all)
    await database.aclose()


async def test_nothing_belongs_to_a_person_who_is_gone(
    url: str, two: tuple[SqlStore, SqlStore]
) -> None:
    one, other = two
    harness = await make_harness(one)
    beside = ActionHarness(other, harness.lane, harness.fence)
    lane = await one.lanes.ensure("acme", "klaviyo", "event")

    async def post(store: SqlStore, **who: str | None) -> None:
        page = Page(lane, "webhook", [record(**{"email": None, "person": None, **who})], NOW)
        await store.outbox.append([page])

    for number in range(ROUNDS):
        email, id = f"p{number}@example.com", f"id-{number}"
        await post(one, email=email)
        await post(one, email=email)
        await post(other, person=id)
        await asyncio.gather(
            *(post(one, email=email) for _ in range(3)),
            post(other, person=id, email=email),
            *(beside.add(make_request(email, key=f"{number}-{n}")) for n in range(3)),
            return_exceptions=True,
        )
    assert await asyncio.to_thread(integrity.check, url) == []
    for number in range(ROUNDS):
        [person] = await one.timelines.find("acme", f"id-{number}")
        await one.timelines.person(person, 10)
    waiting = await one.action_views.find(limit=1000)
    claim = await harness.must_claim(Millis(NOW))
    assert len({view.person for view in waiting}) == len(claim.entries), "one of each person"


async def test_two_answers_about_one_person_are_stored_as_one_person(
    url: str, two: tuple[SqlStore, SqlStore]
) -> None:
    """Both answers come at once; only the second one says who both are."""
    store, email = two[0], "ada@example.com"
    harness = await make_harness(store)
    await append(store, person="7")
    await append(store, person="8", email=email)
    await settle_reads(store, harness.fence, {"7": ((), None), "8": (("7",), email)})
    assert await store.timelines.find("acme", "7") == await store.timelines.find("acme", "8")
    assert await asyncio.to_thread(integrity.check, url) == []


async def test_what_two_processes_store_at_once_is_refused_to_neither(
    two: tuple[SqlStore, SqlStore],
) -> None:
    """A redelivery to another replica, and the first events of a new person."""
    lane = await two[0].lanes.ensure("acme", "klaviyo", "event")
    for number in range(ROUNDS):
        same = record(email=f"n{number}@example.com", person=None, key=f"same-{number}")
        other = record(email=f"n{number}@example.com", person=None, key=f"other-{number}")
        pages = [Page(lane, "webhook", [it], NOW) for it in (same, same, other)]
        added = await asyncio.gather(
            *(two[n % 2].outbox.append([page]) for n, page in enumerate(pages))
        )
        assert sum(it.accepted for [it] in added) == 2
        assert len(await two[0].timelines.find("acme", f"n{number}@example.com")) == 1
