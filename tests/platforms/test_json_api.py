"""What all adapters' APIs share: the limit, 404s, JSON objects and clients that are closed."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from connector.domain.errors import AmbiguousError, Blocked, Problem, Rejected, RetryLater
from connector.net.rate_limit import Limit
from connector.platforms.json_api import (
    JsonApi,
    before_action,
    credential_check,
    per_second,
    unknown_person_on_404,
)
from connector.testing.fakes.ports import make_kit


def fixed_response(status: int, body: bytes = b"{}") -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return app


async def make_api(status: int, body: bytes = b"{}") -> JsonApi:
    kit = make_kit(fixed_response(status, body))
    return JsonApi(kit, await kit.quota("key", {"Some API": per_second(5)}), "Some API")


@pytest.mark.parametrize(
    ("rate", "limit"),
    [(5, Limit(5, 300)), (0.5, Limit(1, 30)), (0.001, Limit(1, 1)), (2.4, Limit(2, 144))],
)
def test_a_rate_is_a_limit_per_second_and_per_minute(rate: float, limit: Limit) -> None:
    assert per_second(rate) == limit


@pytest.mark.parametrize(
    ("status", "body", "found"), [(200, b'{"a": 1}', {"a": 1}), (404, b"", None)]
)
async def test_a_404_is_none(status: int, body: bytes, found: Any) -> None:
    api = await make_api(status, body)
    http = api.client("http://127.0.0.1", dict)
    assert await api.find_object(http, "/a", route="GET /a") == found


@pytest.mark.parametrize("body", [b"null", b"[]", b'"x"', b"<html>", b""])
async def test_a_response_that_is_not_an_object_is_ambiguous(body: bytes) -> None:
    api = await make_api(200, body)
    with pytest.raises(AmbiguousError):
        await api.find_object(api.client("http://127.0.0.1", dict), "/a", route="GET /a")


async def test_closing_an_api_closes_its_clients() -> None:
    api = await make_api(200)
    http = api.client("http://127.0.0.1", dict)
    await api.aclose()
    with pytest.raises(RetryLater, match="closed"):
        await api.call(http, "GET", "/a", route="GET /a")


def test_a_404_about_a_person_rejects_the_action_only() -> None:
    with (
        pytest.raises(Rejected, match="no-such-person") as caught,
        unknown_person_on_404("no-such-person"),
    ):
        raise Blocked(Problem.PLATFORM_TARGET, scope="target", status=404)
    assert caught.value.status == 404
    with pytest.raises(Blocked), unknown_person_on_404():
        raise Blocked(Problem.PLATFORM_KEY, scope="account", status=401)


def test_an_ambiguous_look_up_before_an_action_is_tried_again() -> None:
    with pytest.raises(RetryLater), before_action():
        raise AmbiguousError(Problem.TIMED_OUT)


@pytest.mark.parametrize(
    ("failure", "how", "level"),
    [
        (None, {}, "ok"),
        (Rejected(Problem.PLATFORM_REFUSED), {}, "fault"),
        (Rejected(Problem.PLATFORM_REFUSED), {"rejected": "warning"}, "warning"),
        (Rejected(Problem.PLATFORM_REFUSED), {"rejected": "ok"}, "ok"),
        (Blocked(Problem.PLATFORM_KEY, scope="account"), {"rejected": "ok"}, "fault"),
    ],
)
async def test_a_credential_check_reports_the_failure_of_its_call(
    failure: Exception | None, how: dict[str, Any], level: str
) -> None:
    async def call() -> None:
        if failure is not None:
            raise failure

    made: Awaitable[None] = call()
    [check] = await credential_check("key", made, **how)
    assert check.level == level
    assert (check.problem is None) == (level == "ok")
