"""Members of segments are sent in batches, and confirmed only by what the response says."""

from __future__ import annotations

import httpx
import orjson
import pytest

from connector.domain.errors import AmbiguousError, Blocked, Problem, RetryLater
from connector.ports import Member

from .rig import Rig


def made(*emails: str | None) -> list[tuple[Member, bool]]:
    return [(Member(email=email), True) for email in emails]


async def test_joins_and_leaves_are_sent_and_stay_unconfirmed() -> None:
    rig = await Rig().open()
    ana, bruno, carla = (person.email for person in rig.platform.people[:3])
    results = await rig.update_members("vip", *made(ana, bruno, carla))
    assert [result.status for result in results] == ["unconfirmed"] * 3
    assert rig.platform.segment("vip") == {ana, bruno, carla}
    await rig.update_members("vip", (Member(email=bruno), False))
    assert rig.platform.segment("vip") == {ana, carla}
    assert rig.platform.segment("other") == set()
    assert rig.platform.state()["violations"] == {}


async def test_sending_twice_is_idempotent() -> None:
    rig = await Rig().open()
    email = rig.platform.people[0].email
    for _ in range(2):
        await rig.update_members("vip", *made(email))
    assert rig.platform.segment("vip") == {email}


async def test_a_response_that_lists_its_items_confirms_them() -> None:
    rig = await Rig(sandbox={"lists_items": True}).open()
    email = rig.platform.people[0].email
    results = await rig.update_members("vip", *made(email.upper(), "nobody@example.com", None))
    assert [result.status for result in results] == ["confirmed", "refused", "refused"]
    assert results[2].problem is Problem.NO_IDENTITY


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"[1]", b'{"items":[{"email":"ana@example.com"}]}', b'"ok"']
)
async def test_any_other_response_leaves_all_unconfirmed(body: bytes) -> None:
    rig = await Rig(answer=lambda request: httpx.Response(201, content=body)).open()
    results = await rig.update_members("vip", *made("ana@example.com", "bruno@example.com"))
    assert [result.status for result in results] == ["unconfirmed"] * 2


async def test_a_404_means_that_every_item_failed() -> None:
    rig = await Rig().open()
    results = await rig.update_members("vip", *made("a@example.com", "b@example.com", None))
    assert [result.status for result in results] == ["refused"] * 3
    assert [result.problem for result in results] == [
        Problem.PLATFORM_TARGET,
        Problem.PLATFORM_TARGET,
        Problem.NO_IDENTITY,
    ]


async def test_without_addresses_no_request_is_sent() -> None:
    rig = await Rig().open()
    results = await rig.update_members("vip", (Member(platform_id="7"), True))
    assert [result.status for result in results] == ["refused"]
    assert rig.platform.state()["requests"] == {}


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("status", 429, RetryLater),
        ("status", 503, RetryLater),
        ("status", 500, AmbiguousError),
        ("status", 401, Blocked),
        ("reset_after", None, AmbiguousError),
    ],
)
async def test_a_request_that_fails_as_a_whole_raises(
    kind: str, status: int | None, error: type[Exception]
) -> None:
    rig = await Rig().open()
    rig.platform.faults.parse({"endpoint": "integrations/api", "kind": kind, "status": status})
    with pytest.raises(error):
        await rig.update_members("vip", *made(rig.platform.people[0].email))


async def test_the_membership_payload_is_configurable() -> None:
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(201)

    rig = await Rig(answer=answer, segment_feature="tags", segment_batch=7).open()
    assert rig.members.size == 7
    await rig.update_members("vip", (Member(email="ana@example.com"), False))
    assert orjson.loads(bodies[0]) == [
        {
            "email": "ana@example.com",
            "feature": "tags",
            "payload": {"segment": "vip", "member": False},
        }
    ]


async def test_a_request_of_the_maximum_size_is_accepted() -> None:
    rig = await Rig().open()
    email = rig.platform.people[0].email
    filler = [f"{n}@example.com" for n in range(rig.members.size - 1)]
    results = await rig.update_members("vip", *made(email, *filler))
    assert {result.status for result in results} == {"unconfirmed"}
