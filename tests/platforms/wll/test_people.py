"""Users are read by any of their ids; the data of restricted users is withheld."""

from __future__ import annotations

import tracemalloc
from typing import Any

import orjson
import pytest

from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
)
from connector.ports import Client, PersonRef, PersonSnapshot

from .rig import Rig

SIGNALS = frozenset(("next_tier.name", "next_tier.points_needed", "next_reward.points_needed"))


async def read(client: Client, id: str | None, reads: frozenset[str] = frozenset()) -> Any:
    assert client.reader
    return await client.reader.read(PersonRef(1, id, None, b""), reads)


async def people(client: Client, cursor: str | None = None) -> list[Any]:
    found: list[Any] = []
    assert client.people
    while True:
        page = await client.people.page(cursor, frozenset())
        found += page.people
        cursor = page.cursor
        if not page.more:
            return found


def fixed_response(body: Any, status: int = 200) -> Any:
    """A remote API that issues tokens and gives this response to everything else."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        content = (
            {"access_token": "t", "expires_in": 9} if scope["path"] == "/oauth/token" else body
        )
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": orjson.dumps(content)})

    return app


async def test_a_user_is_read_by_each_of_their_ids() -> None:
    rig = Rig()
    client = await rig.open()
    user = next(iter(rig.platform.users))
    snapshots = [await read(client, id) for id in (user.auth, user.id, str(user.account))]
    assert snapshots[0].view["email"] == user.email
    assert snapshots[0].view["balance"] == user.points
    assert snapshots[0].view["tier"]["name"] == user.tier[0]
    assert snapshots[0] == snapshots[1] == snapshots[2]
    assert "withheld" in snapshots[0].covers, "a listing must be able to take the word back"
    assert await read(client, "no-such-user") is None
    assert await read(client, None) is None


async def test_an_id_is_escaped_in_the_url() -> None:
    rig = Rig(people=0)
    user = rig.platform.add("ana@example.org", auth="a?b c#d&e%20")
    generated = rig.platform.add_generated_audience("Odd", 1)
    rig.platform.audiences["x?y"] = generated
    client = await rig.open()
    assert (await read(client, user.auth)).view["email"] == user.email
    assert client.audiences
    assert len((await client.audiences.members("x?y", None)).members) == 1
    assert [route for route, _ in rig.calls()][1:] == [
        "GET /users/{subject}",
        "GET /audiences/{id}/members",
    ]


async def test_one_token_serves_all_requests_of_its_lifetime() -> None:
    rig = Rig()
    client = await rig.open()
    for _ in range(5):
        await read(client, "crm-1001")
    rig.clock.move(86_400 - 70)
    await read(client, "crm-1001")
    assert rig.platform.token_calls == 1
    rig.clock.move(70)
    await read(client, "crm-1001")
    assert rig.platform.token_calls == 2
    assert rig.platform.violations == {}
    assert rig.calls()[:2] == [("POST /oauth/token", 200), ("GET /users/{subject}", 200)]


async def test_a_token_that_was_revoked_is_renewed_at_once() -> None:
    rig = Rig()
    client = await rig.open()
    await read(client, "crm-1001")
    rig.platform.revoke()
    assert await read(client, "crm-1001")
    assert rig.platform.token_calls == 2


async def test_a_throttled_token_service_is_a_wait() -> None:
    rig = Rig()
    rig.platform.faults.add("token", "status", status=429, retry_after=60)
    client = await rig.open()
    for _ in range(3):
        with pytest.raises(RetryLater):
            await read(client, "crm-1001")
    assert rig.platform.state()["requests"] == {"POST /oauth/token": {"429": 1}}


async def test_a_wrong_client_is_reported() -> None:
    client = await Rig(client_secret="another").open()
    [check] = await client.check()
    assert (check.level, check.problem) == ("fault", Problem.PLATFORM_KEY)
    assert "invalid_client" in check.detail


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"status": "fail", "data": {"subject": "ana@example.org is unknown"}}, Rejected),
        ({"status": "error", "message": "ana@example.org"}, AmbiguousError),
        ({"status": "error", "data": {"id": "crm-1001"}}, AmbiguousError),
        ({"status": "odd", "data": {"id": "crm-1001"}}, AmbiguousError),
        ({"status": "success", "data": []}, AmbiguousError),
        (
            {"status": "success", "data": {"id": "another", "authIdentifier": "crm-2"}},
            AmbiguousError,
        ),
        ({"status": "success", "data": {"emailAddress": "a@example.org"}}, AmbiguousError),
    ],
    ids=["fail", "error", "error with data", "odd", "no user", "another user", "no one's"],
)
async def test_an_envelope_without_success_is_an_error_despite_200(
    body: Any, kind: type[DeliveryError]
) -> None:
    client = await Rig(answer=fixed_response(body)).open()
    with pytest.raises(kind) as caught:
        await read(client, "crm-1001")
    assert "@" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"restricted": True}, "restricted"),
        ({"email": "REDACTED"}, "placeholder"),
        ({"email": " unknown "}, "placeholder"),
        ({"email": "Example@Example.com"}, "placeholder"),
        ({"email": "REDACTED", "restricted": True}, "restricted"),
        ({"extra": {"isRestricted": "yes"}}, "restricted"),
    ],
)
async def test_a_restricted_user_is_withheld(fields: dict[str, Any], why: str) -> None:
    rig = Rig(people=0)
    user = rig.platform.add(**{"email": "ana@example.org", **fields})
    client = await rig.open()
    snapshot = await read(client, user.auth, SIGNALS)
    assert snapshot == PersonSnapshot({"withheld": why}, frozenset({"withheld"}))
    [listed] = await people(client)
    assert (listed.platform_id, listed.email, listed.snapshot) == (user.auth, None, snapshot)


async def test_placeholders_are_configurable() -> None:
    rig = Rig(people=0, placeholders=["none@shop.example"])
    users = [rig.platform.add(email) for email in ("None@shop.example", "example@example.com")]
    client = await rig.open()
    snapshots = [await read(client, user.auth) for user in users]
    assert [snapshot.view.get("withheld") for snapshot in snapshots] == ["placeholder", None]


async def test_a_placeholder_name_is_omitted() -> None:
    rig = Rig(people=0)
    user = rig.platform.add("ana@example.org", given="REDACTED", family="Ruiz")
    snapshot = await read(await rig.open(), user.auth)
    assert "first_name" not in snapshot.view
    assert "first_name" in snapshot.covers
    assert snapshot.view["last_name"] == "Ruiz"


async def test_goals_are_fetched_only_when_mapped_and_not_per_person() -> None:
    rig = Rig(people=0)
    users = [
        rig.platform.add(f"u{i}@example.org", points=points, earned=earned)
        for i, (points, earned) in enumerate([(200, 600), (150, 0), (5000, 9000)])
    ]
    client = await rig.open()
    plain = await read(client, users[0].auth)
    assert not {"next_tier", "next_reward"} & (plain.view.keys() | plain.covers)
    snapshots = [await read(client, user.auth, SIGNALS) for user in users]
    assert [s.view.get("next_tier") for s in snapshots] == [
        {"name": "Gold", "points_needed": 900},
        {"name": "Silver", "points_needed": 500},
        None,
    ]
    assert [s.view.get("next_reward") for s in snapshots] == [
        {"name": "5 GBP off", "points_needed": 300},
        {"name": "5 GBP off", "points_needed": 350},
        None,
    ]
    assert all({"next_tier", "next_reward"} <= s.covers for s in snapshots)
    once = {"200": 1}
    requests: Any = rig.platform.state()["requests"]
    assert (requests["GET /v1/tiers"], requests["GET /v1/rewards"]) == (once, once)
    rig.clock.move(601)
    await read(client, users[0].auth, SIGNALS)
    assert rig.calls().count(("GET /rewards", 200)) == 2


async def test_without_rewards_the_other_fields_are_returned() -> None:
    rig = Rig()
    rig.platform.faults.add("rewards", "status", status=500)
    snapshot = await read(await rig.open(), "crm-1001", SIGNALS)
    assert "next_reward" not in snapshot.covers
    assert "next_tier" in snapshot.covers
    assert snapshot.view["email"]


async def test_everyone_is_listed_once_and_a_cursor_resumes() -> None:
    rig = Rig(people=450)
    client = await rig.open()
    assert client.people
    first = await client.people.page(None, frozenset(), backfill=True)
    rest = await people(client, first.cursor)
    listed = [*first.people, *rest]
    assert [person.platform_id for person in listed] == [user.auth for user in rig.platform.users]
    assert rig.calls().count(("GET /users", 200)) == 3
    assert len(rig.saved_usage) == 3


async def test_audiences_have_names_and_only_unrestricted_members() -> None:
    rig = Rig(people=0)
    rig.platform.add("u0@Example.org", earned=1600)
    rig.platform.add("u1@Example.org", earned=1600, restricted=True)
    rig.platform.add("REDACTED", earned=1600)
    rig.platform.refresh()
    client = await rig.open()
    assert client.audiences
    names = await client.audiences.names()
    [gold] = [id for id, name in names.items() if name == "Gold"]
    page = await client.audiences.members(gold, None)
    assert [(m.platform_id, m.email) for m in page.members] == [("crm-1001", "u0@example.org")]
    assert not page.more
    with pytest.raises(Blocked) as caught:
        await client.audiences.members("no/such", None)
    assert (caught.value.problem, caught.value.scope) == (Problem.PLATFORM_TARGET, "target")


async def test_a_generated_audience_of_a_million_uses_no_memory() -> None:
    tracemalloc.start()
    rig = Rig(people=0)
    generated = rig.platform.add_generated_audience("Everybody", 1_000_000)
    client = await rig.open()
    assert client.audiences

    async def ids(cursor: str | None) -> list[str | None]:
        assert client.audiences
        page = await client.audiences.members(generated.id, cursor)
        assert page.more == (cursor != "999800")
        return [member.platform_id for member in page.members]

    first, last = await ids(None), await ids("999800")
    assert (first[0], last[-1]) == ("crowd-0", "crowd-999999")
    assert generated.replace_members(0.01) == 10_000
    assert (await ids(None))[0] == "crowd-10000"
    assert (await ids("999800"))[-1] == "crowd-1009999"
    assert (await read(client, "crowd-10000")).view["email"] == "crowd10000@wll.example.org"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


async def test_the_key_keeps_its_rate_limit() -> None:
    rig = Rig(rate_per_second=80)
    client = await rig.open()
    began = rig.clock.now()
    for _ in range(400):
        assert client.people
        await client.people.page(None, frozenset())
    assert rig.clock.now() - began >= 4_000
    assert rig.platform.state()["throttled"] == 0
