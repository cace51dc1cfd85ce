"""What the adapters' API classes share: one quota, clients that are closed together, JSON answers,
and the meaning of a 404."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import orjson

from connector.domain.attention import Check
from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
    StoreError,
)
from connector.domain.lanes import Millis
from connector.net.http import ApiResponse, Credential, Http
from connector.net.rate_limit import Limit, RateLimiter
from connector.platforms.kit import NOT_APPLIED, Kit

_ID_MAX = 200


def per_second(rate: float) -> Limit:
    """The limit of so many requests a second; below one, at most one a second and the minute
    counts."""
    return Limit(max(1, round(rate)), max(1, round(rate * 60)))


class JsonApi:
    """An API whose calls all count on one quota. A subclass has a method per route.

    `endpoint` is the name under which the limiter counts the calls. People read it in `status` and
    in metrics: "JeriCommerce API".
    """

    def __init__(self, kit: Kit, limiter: RateLimiter, endpoint: str) -> None:
        self.limiter = limiter
        self.endpoint = endpoint
        self.clock = kit.clock
        self._kit = kit
        self._clients: list[Http] = []

    def client(
        self, base_url: str, credential: Credential, not_applied: frozenset[int] = NOT_APPLIED
    ) -> Http:
        """An HTTP client that is closed with this API. `not_applied` as in Kit.http."""
        client = self._kit.http(base_url, credential, not_applied)
        self._clients.append(client)
        return client

    def now(self) -> Millis:
        return self.clock.now()

    async def permit(self, *, backfill: bool = False) -> None:
        """Wait for quota for one call and save that it was granted."""
        await self.limiter.acquire(self.endpoint, self._kit.record_usage, backfill=backfill)

    async def call(
        self, http: Http, method: str, path: str, *, route: str, body: Any = None
    ) -> ApiResponse:
        """One request with one permit of the caller; a `body` other than None is sent as JSON.
        `route` is logged and counted instead of the path and holds no data. Raises
        DeliveryError."""
        content = None if body is None else orjson.dumps(body)
        return await http.call(method, path, route=route, content=content)

    async def find(self, http: Http, path: str, *, route: str) -> ApiResponse | None:
        """The response to a GET, None for a 404. Raises DeliveryError."""
        try:
            return await self.call(http, "GET", path, route=route)
        except Blocked as error:
            if error.status == 404:
                return None
            raise

    async def find_object(self, http: Http, path: str, *, route: str) -> dict[str, Any] | None:
        """The JSON object that a GET returns, None for a 404. Raises DeliveryError."""
        answer = await self.find(http, path, route=route)
        return None if answer is None else json_object(answer)

    async def aclose(self) -> None:
        for client in self._clients:
            await client.aclose()


def json_object(answer: ApiResponse) -> dict[str, Any]:
    """The JSON object of a response. Raises AmbiguousError for anything else."""
    found = answer.json()
    if not isinstance(found, dict):
        raise AmbiguousError(Problem.ANSWER_UNREADABLE, "the response is not a JSON object")
    return found


async def credential_check(
    name: str,
    call: Awaitable[object],
    *,
    accepted: str = "",
    rejected: Literal["ok", "warning", "fault"] = "fault",
) -> Sequence[Check]:
    """The check of a credential by a call that needs it, such as a read of an unknown person.
    `accepted` says what a success means; `rejected` is the level of a Rejected, where a platform
    may refuse the id of the unknown person."""
    try:
        await call
    except DeliveryError as error:
        level = rejected if isinstance(error, Rejected) else "fault"
        if level != "ok":
            return [Check(name, level, error.detail, error.problem)]
    return [Check(name, "ok", accepted)]


def person_ids(*values: Any) -> tuple[str, ...]:
    """Those of the values that can be a person's id, as texts, each once."""
    texts = [
        str(value).strip()
        for value in values
        if isinstance(value, str | int) and not isinstance(value, bool)
    ]
    return tuple(
        dict.fromkeys(text for text in texts if 0 < len(text) <= _ID_MAX and "\0" not in text)
    )


@contextmanager
def unknown_person_on_404(detail: str = "") -> Iterator[None]:
    """Around an action: a 404 rejects the action and holds up no other, for an unknown person is
    far likelier than a wrong path. Raises Rejected."""
    try:
        yield
    except Blocked as error:
        if error.status != 404:
            raise
        detail = detail or error.detail
        raise Rejected(Problem.PLATFORM_TARGET, detail, status=404) from error


@contextmanager
def before_action() -> Iterator[None]:
    """Around what precedes an action, a look-up and the permit of the action itself: when its
    answer is ambiguous, or the permit cannot be saved, the action was certainly not applied. Raises
    RetryLater."""
    try:
        yield
    except AmbiguousError as error:
        raise RetryLater(error.problem, error.detail, status=error.status) from error
    except StoreError as error:
        raise RetryLater(error.problem, error.detail) from error
