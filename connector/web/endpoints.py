"""What webhooks and flow calls have in common over HTTP: the path, the limits, the answers.

Plain ASGI, because these are hot paths: routing and request objects cost more than the work itself
(bench/README.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from connector.domain.errors import Malformed, Problem, StoreError, Unauthorised
from connector.pipeline.intake import Endpoint
from connector.ports import Clock
from connector.runtime import log
from connector.runtime.log_limit import LogLimit
from connector.runtime.metrics import Metrics
from connector.service import ConnectionRuntime
from connector.web.asgi import (
    JSON,
    RETRY_AFTER,
    Bodies,
    ClientDisconnected,
    TooLarge,
    TooMany,
    read_body,
    send_json,
    send_response,
)

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

E = TypeVar("E", bound=Endpoint[Any, Any])
R = TypeVar("R")


class Rejection(Exception):
    """A call that is not accepted, and its answer.

    `reason` is the metric's label; without one the call is not counted, so that an invented path
    makes no label.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        reason: str | None = None,
        problem: Problem | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.reason = reason
        self.problem = problem
        self.headers = headers


class EndpointApp(ABC, Generic[E, R]):
    """`POST {prefix}{connection}/{path}`: verified, parsed, committed, and only then 202."""

    prefix: ClassVar[str]
    rejected_event: ClassVar[str]
    """Log event of a rejection."""
    unauthorized_reason: ClassVar[str]
    """Reason of a 401 in `connector_webhooks_rejected_total`."""
    bodies: ClassVar[Bodies] = Bodies()
    """Shared by all endpoints of the process."""

    def __init__(
        self,
        find: Callable[[str], ConnectionRuntime | None],
        clock: Clock,
        metrics: Metrics,
        *,
        broken: Container[str] = (),
    ) -> None:
        self._find = find
        self._clock = clock
        self._metrics = metrics
        self._broken = broken
        self._log = LogLimit(log.get("web"), clock, burst=1, seconds=60.0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name, _, path = str(scope["path"])[len(self.prefix) :].partition("/")
        try:
            body = await self._receive(name, path, scope, receive)
        except Rejection as rejection:
            await self._reject(name, rejection, send)
        else:
            await send_response(send, 202, body, JSON)

    @abstractmethod
    def _endpoint_of(self, runtime: ConnectionRuntime, path: str) -> E | None:
        """The connection's endpoint; None: 404."""

    @abstractmethod
    def _check(
        self,
        runtime: ConnectionRuntime,
        endpoint: E,
        path: str,
        scope: Scope,
        headers: dict[str, str],
    ) -> None:
        """Raise Rejection for what can be rejected before the body is read."""

    @abstractmethod
    def _answer(self, receipt: R) -> bytes:
        """The body of a 202. Raises Rejection for a call that conflicts with a stored one."""

    async def _receive(self, name: str, path: str, scope: Scope, receive: Receive) -> bytes:
        if name in self._broken:
            detail = f"connection {name}: its platform package fails, send this again later"
            raise unavailable(detail, "not_stored", Problem.PLUGIN_BROKEN)
        runtime = self._find(name)
        endpoint = self._endpoint_of(runtime, path) if runtime else None
        if runtime is None or endpoint is None:
            raise Rejection(404, "no such connection")
        if scope["method"] != "POST":
            detail = f"method: found {scope['method']}, allowed POST"
            raise Rejection(405, detail, headers=((b"allow", b"POST"),))
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        self._check(runtime, endpoint, path, scope, headers)
        try:
            body = await read_body(headers, receive, self.bodies)
            return self._answer(await endpoint.receive(path, headers, body))
        except TooLarge:
            detail, problem = "body: larger than 1 MiB", Problem.WEBHOOK_TOO_LARGE
            raise Rejection(413, detail, reason="too_large", problem=problem) from None
        except TooMany:
            raise unavailable("body: too many are being received", "not_stored") from None
        except ClientDisconnected:
            detail = "body: the connection closed before its end"
            raise Rejection(400, detail, reason="malformed") from None
        except Unauthorised as error:
            raise self._unauthorized(error) from None
        except Malformed as error:
            raise Rejection(400, error.detail, reason="malformed", problem=error.problem) from None
        except StoreError as error:
            raise self._not_stored(error) from None

    def _unauthorized(self, error: Unauthorised) -> Rejection:
        return Rejection(401, error.detail, reason=self.unauthorized_reason, problem=error.problem)

    def _not_stored(self, error: StoreError) -> Rejection:
        """The store's own detail is not sent to the caller: it may hold personal data."""
        return unavailable("not stored, send this again later", "not_stored", error.problem)

    async def _reject(self, name: str, rejection: Rejection, send: Send) -> None:
        problem = rejection.problem.value if rejection.problem else None
        if rejection.reason:
            self._metrics.record_rejected(
                name, rejection.reason, self._clock.now(), rejection.problem
            )
            self._log.warning(
                (name, rejection.reason),
                self.rejected_event,
                connection=name,
                status=rejection.status,
                problem=problem,
                detail=rejection.detail,
            )
        payload = {"detail": rejection.detail} | ({"problem": problem} if problem else {})
        await send_json(send, rejection.status, payload, *rejection.headers)


def unavailable(detail: str, reason: str, problem: Problem | None = None) -> Rejection:
    """A 503: nothing is wrong with the call, and the caller should repeat it."""
    return Rejection(503, detail, reason=reason, problem=problem, headers=(RETRY_AFTER,))
