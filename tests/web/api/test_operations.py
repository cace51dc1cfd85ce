"""The operations of the API, and what a repeated or outdated request comes to."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from connector.domain.actions import Action, ActionBatch, ActionRequest, Caps
from connector.domain.errors import Problem
from connector.domain.records import State
from connector.ports import ANY_DEAD_LETTER
from connector.testing.contracts.profile_harness import refuse_profile
from connector.web.api.context import write_cursor

from .conftest import ApiHarness

DEAD_LETTERS = "/api/v1/dead-letters"


async def names(client: httpx.AsyncClient, query: str = "") -> tuple[list[str], int]:
    found = (await client.get(f"{DEAD_LETTERS}{query}")).json()
    return [x["unique_id"].removeprefix("test:") for x in found["items"]], found["count"]


async def test_dead_letters_are_filtered_and_paged(
    harness: ApiHarness, viewer: httpx.AsyncClient
) -> None:
    await harness.dead_letters(*"abc")
    await harness.dead_letters("d", problem=Problem.MAPPING_FAILED)
    assert await names(viewer, "?cause=M10&connection=acme&state=dead") == (["d"], 1)
    assert await names(viewer, "?q=test:b") == (["b"], 1)
    first = (await viewer.get(f"{DEAD_LETTERS}?limit=3")).json()
    assert (len(first["items"]), first["count"]) == (3, 4)
    assert await names(viewer, f"?limit=3&cursor={first['next']}") == (["a"], 4)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "dead-letters?conection=acme"),
        ("GET", "actions?q=x&limit=5"),
        ("GET", "status?connection=acme"),
        ("GET", "dead-letters?State=held"),
        ("POST", "dead-letters/discard?dry_run=true"),
    ],
)
async def test_a_query_key_that_is_not_known_is_a_fault(
    operator: httpx.AsyncClient, method: str, path: str
) -> None:
    """A misspelt filter would show, and select, more than was wanted."""
    body = {"ids": [1]} if method == "POST" else None
    answer = await operator.request(method, f"/api/v1/{path}", json=body)
    assert answer.status_code == 422
    [fault] = answer.json()["faults"]
    key = path.partition("?")[2].partition("=")[0]
    assert fault.startswith(f"query.{key}: unknown")


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
async def test_json_without_its_content_type_is_named_as_such(
    operator: httpx.AsyncClient, kind: str | None
) -> None:
    """`curl -d` sends a form's content type by itself."""
    headers = {"content-type": kind} if kind else {}
    path = f"{DEAD_LETTERS}/retry"
    answer = await operator.post(path, content=b'{"ids": [1]}', headers=headers)
    assert answer.status_code == 422
    assert answer.json()["faults"] == ["header.content-type: allowed application/json"]


async def test_backfills_are_paged(harness: ApiHarness, viewer: httpx.AsyncClient) -> None:
    now = harness.clock.now()
    for name in ("acme", "other", "acme", "acme"):
        run = await harness.store.backfills.begin(name, "everyone", {}, now=now)
        await harness.store.backfills.set_state(run.id, "stopped", now=now)
    assert await pages(viewer, "backfills", "connection=acme&limit=2") == [[4, 3], [1]]
    assert await pages(viewer, "backfills", "limit=3") == [[4, 3, 2], [1]]


async def test_actions_are_paged_those_that_need_a_person_first(
    harness: ApiHarness, viewer: httpx.AsyncClient
) -> None:
    lane = await harness.store.lanes.ensure("acme", "jericommerce", "action")
    now = harness.clock.now()
    for number in range(5):
        action = Action("increase", email="ana@example.com", amount=1, reason="Welcome")
        request = ActionRequest(action, "balance/increase", str(number), 3_600_000)
        batch = ActionBatch(lane, "flow", [request], now, Caps(per_person=3))
        await harness.store.action_intake.add([batch])
    assert await pages(viewer, "actions", "limit=1") == [[5], [4], [3], [2], [1]]
    assert await pages(viewer, "actions", "limit=2&stuck=true") == [[5, 4]]
    assert await pages(viewer, "actions", "limit=2") == [[5, 4], [3, 2], [1]]
    assert await pages(viewer, "actions", "limit=1&state=held") == [[5], [4]]
    assert await pages(viewer, "actions", "state=uncertain") == [[]]
    assert await pages(viewer, "actions", "state=held&connection=other") == [[]]
    assert (await viewer.get("/api/v1/actions?state=applied")).status_code == 422
    for wrong in (write_cursor(3), write_cursor(3, "elsewhere"), "%F0"):
        assert (await viewer.get(f"/api/v1/actions?cursor={wrong}")).status_code == 400
    theirs = write_cursor(3, "stuck")
    assert (await viewer.get(f"/api/v1/backfills?cursor={theirs}")).status_code == 400


async def pages(client: httpx.AsyncClient, what: str, query: str) -> list[list[int]]:
    """The ids of each page of a list."""
    found: list[list[int]] = []
    more = ""
    for _ in range(20):
        page = (await client.get(f"/api/v1/{what}?{query}{more}")).json()
        found.append([item["id"] for item in page["items"]])
        if page["next"] is None:
            return found
        more = f"&cursor={page['next']}"
    raise AssertionError("the list has no end")


async def test_an_old_backfill_is_shown(harness: ApiHarness, viewer: httpx.AsyncClient) -> None:
    now = harness.clock.now()
    for _ in range(25):
        run = await harness.store.backfills.begin("acme", "everyone", {}, now=now)
        await harness.store.backfills.set_state(run.id, "done", now=now)
    assert (await viewer.get("/api/v1/backfills/1")).json()["state"] == "done"


async def test_a_command_that_failed_is_audited_with_its_error(
    operator: httpx.AsyncClient,
) -> None:
    await operator.post("/api/v1/actions/7/again")
    [entry] = (await operator.get("/api/v1/audit")).json()["items"]
    assert (entry["what"], entry["subject"], entry["by"]) == ("again", "id: 7", "ci")
    assert "7" in entry["error"]


async def test_all_that_match_a_filter_are_retried_while_their_number_is_the_same(
    harness: ApiHarness, operator: httpx.AsyncClient
) -> None:
    await harness.dead_letters(*"abc")
    await harness.dead_letters("d", problem=Problem.MAPPING_FAILED)
    which = {"filter": {"cause": "K400"}, "count": 2}
    refused = await operator.post(f"{DEAD_LETTERS}/retry", json=which)
    assert refused.status_code == 409
    assert "3 records match by now, not 2" in refused.json()["detail"]
    answer = await operator.post(f"{DEAD_LETTERS}/retry", json=which | {"count": 3})
    assert answer.status_code == 200
    assert answer.json()["result"] == {"retried": 3, "waiting_for_an_address": 0}
    assert await names(operator) == (["d"], 1)


async def test_a_filter_without_the_count_that_it_had_is_refused(
    harness: ApiHarness, operator: httpx.AsyncClient
) -> None:
    await harness.dead_letters("a")
    for body in ({}, {"filter": {}}, {"ids": [1], "filter": {}, "count": 1}):
        assert (await operator.post(f"{DEAD_LETTERS}/discard", json=body)).status_code == 422
    assert await harness.store.dead_letters.count(ANY_DEAD_LETTER) == 1


async def test_what_is_discarded_keeps_the_reason(
    harness: ApiHarness, operator: httpx.AsyncClient
) -> None:
    await harness.dead_letters("a")
    [letter] = await harness.store.dead_letters.find()
    body = {"ids": [letter.id], "reason": "a test"}
    assert (await operator.post(f"{DEAD_LETTERS}/discard", json=body)).status_code == 200
    shown = await harness.store.dead_letters.show(letter.id)
    assert shown
    assert (shown.dead_letter.state, shown.dead_letter.detail) == (State.DISCARDED, "a test")


async def test_a_repeated_request_with_one_key_is_answered_as_the_first(
    harness: ApiHarness, operator: httpx.AsyncClient
) -> None:
    await harness.dead_letters(*"ab")
    key = {"idempotency-key": "once"}
    body: dict[str, Any] = {"filter": {}, "count": 2}
    first = await operator.post(f"{DEAD_LETTERS}/retry", json=body, headers=key)
    await harness.dead_letters("c")
    again = await operator.post(f"{DEAD_LETTERS}/retry", json=body, headers=key)
    assert first.json() == again.json()
    assert first.json()["result"]["retried"] == 2
    other = await operator.post(f"{DEAD_LETTERS}/retry", json={"ids": [1]}, headers=key)
    assert other.status_code == 422
    assert "use a new one" in other.json()["detail"]


async def test_a_decision_that_is_not_possible_says_why(operator: httpx.AsyncClient) -> None:
    answer = await operator.post("/api/v1/actions/7/again")
    assert answer.status_code == 409
    assert "7" in answer.json()["detail"]
    answer = await operator.post("/api/v1/approvals/7/approve")
    assert answer.json()["detail"] == "no open approval has the id 7"
    assert (await operator.get("/api/v1/backfills/7")).status_code == 404
    assert (await operator.get("/api/v1/commands/700")).status_code == 404


async def test_an_approval_is_listed_and_answered_in_the_callers_name(
    harness: ApiHarness, operator: httpx.AsyncClient
) -> None:
    asked = await harness.store.approvals.request(
        "acme", "backfill", "3", {"people": 12}, now=harness.clock.now()
    )
    [shown] = (await operator.get("/api/v1/approvals")).json()["items"]
    assert (shown["id"], shown["detail"]) == (asked.id, {"people": 12})
    answer = await operator.post(f"/api/v1/approvals/{asked.id}/approve")
    assert answer.json()["result"] == {"approved": "backfill of 3"}
    [decided] = await harness.store.approvals.find(pending=False)
    assert decided.decided_by == "ci"


async def test_a_person_is_found_by_address_and_shown_by_an_opaque_key(
    harness: ApiHarness, operator: httpx.AsyncClient, viewer: httpx.AsyncClient
) -> None:
    await harness.dead_letters("ana")
    query = {"email": "Ana@example.com"}
    assert (await viewer.post("/api/v1/people/find", json=query)).status_code == 403
    [found] = (await operator.post("/api/v1/people/find", json=query)).json()["items"]
    assert "ana" not in found["key"]
    shown = (await operator.get(f"/api/v1/people/{found['key']}/timeline")).json()
    assert shown["connection"] == "acme"
    assert shown["person"]["email"] == "ana@example.com"
    assert (await operator.get("/api/v1/people/forged/timeline")).status_code == 404


async def test_people_with_something_that_failed_are_listed_for_operators(
    harness: ApiHarness, operator: httpx.AsyncClient, viewer: httpx.AsyncClient
) -> None:
    for name in ("ada", "bob", "cyd"):
        await refuse_profile(harness.store, harness.fence, name)
    first = (await operator.get("/api/v1/people?connection=acme&cause=K400&limit=2")).json()
    second = (await operator.get(f"/api/v1/people?limit=2&cursor={first['next']}")).json()
    assert [x["platform_id"] for x in first["items"] + second["items"]] == ["cyd", "bob", "ada"]
    assert second["next"] is None
    shown = first["items"][0]
    assert (shown["lane"], shown["state"], shown["problem"]) == (
        "profiles → klaviyo",
        "dead",
        "K400",
    )
    timeline = await operator.get(f"/api/v1/people/{shown['key']}/timeline")
    assert timeline.json()["person"]["email"] == "cyd@example.com"
    assert (await viewer.get("/api/v1/people")).status_code == 403
    assert (await operator.get("/api/v1/people?cursor=b3V0Ym94OjE")).status_code == 400  # outbox:1
    assert (await operator.get("/api/v1/people?cause=E10")).json() == {"items": [], "next": None}
    which = {"connection": "acme", "cause": "K400"}
    answer = await operator.post("/api/v1/people/refresh", json=which)
    assert "only a running daemon" in answer.text


async def test_an_invalid_request_is_not_repeated_in_its_answer(
    operator: httpx.AsyncClient,
) -> None:
    body = {"email": "ana@example.com", "platform_id": "p1"}
    answer = await operator.post("/api/v1/people/find", json=body)
    assert answer.status_code == 422
    assert answer.json()["faults"] == ["body: Value error, give either `email` or `platform_id`"]
    assert "ana" not in answer.text


async def test_the_document_describes_every_operation(operator: httpx.AsyncClient) -> None:
    document = (await operator.get("/api/openapi.json")).json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["description"], path
            assert "403" in operation["responses"], path


@pytest.mark.parametrize("query", ["?limit=0", "?limit=201", "?cursor=%F0", "?state=lost"])
async def test_a_bad_query_is_a_problem_and_not_an_error(
    operator: httpx.AsyncClient, query: str
) -> None:
    answer = await operator.get(f"{DEAD_LETTERS}{query}")
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("id", [0, -1, 2**63, 10**30])
async def test_an_id_that_no_row_can_have_is_a_fault_of_the_request(
    operator: httpx.AsyncClient, id: int
) -> None:
    for path in (f"dead-letters/{id}", f"backfills/{id}", f"commands/{id}"):
        assert (await operator.get(f"/api/v1/{path}")).status_code == 422
    for path in (f"backfills/{id}/stop", f"actions/{id}/applied", f"approvals/{id}/approve"):
        assert (await operator.post(f"/api/v1/{path}")).status_code == 422
    body = {"ids": [id]}
    assert (await operator.post(f"{DEAD_LETTERS}/retry", json=body)).status_code == 422
    cursor = write_cursor(id)
    assert (await operator.get(f"{DEAD_LETTERS}?cursor={cursor}")).status_code == 400


@pytest.mark.parametrize("text", [r"a\u0000b", r"a\ud800b"])
async def test_a_text_that_cannot_be_stored_is_a_fault_of_the_request(
    operator: httpx.AsyncClient, text: str
) -> None:
    headers = {"content-type": "application/json"}
    for path, body in (
        ("people/find", '{"platform_id": "%s"}'),
        ("dead-letters/retry", '{"filter": {"q": "%s"}, "count": 0}'),
        ("backfills", '{"connection": "acme", "klaviyo_list": "%s"}'),
        ("webhook-builder", '{"connection": "acme", "%s": 1}'),
    ):
        content = body % text
        answer = await operator.post(f"/api/v1/{path}", content=content, headers=headers)
        assert answer.status_code == 422, path
    assert (await operator.get(f"{DEAD_LETTERS}?q=a%00b")).status_code == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("dead-letters/retry", {"filter": {}, "count": False}),
        ("dead-letters/retry", {"ids": ["1"]}),
        ("backfills", {"connection": "acme", "dry_run": "no"}),
        ("backfills", {"connection": "acme", "dryrun": True}),
    ],
)
async def test_a_value_of_another_type_or_an_unknown_key_changes_nothing(
    harness: ApiHarness, operator: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    assert (await operator.post(f"/api/v1/{path}", json=body)).status_code == 422
    assert await harness.commands.command(1) is None


async def test_a_backfill_takes_a_date(operator: httpx.AsyncClient) -> None:
    body = {"connection": "acme", "events": True, "since": "2026-01-31"}
    answer = await operator.post("/api/v1/backfills", json=body)
    assert (answer.status_code, answer.json()["detail"]) == (409, "no connection `acme` runs here")
