"""What a caller costs before it is known who calls (guarantee 14)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from connector.web.health import Health
from connector.web.server import application
from tests.console.conftest import ConsoleHarness

from .conftest import OPERATOR, ApiHarness

RETRY = "/api/v1/dead-letters/retry"


class Body:
    """A body of 64 MB that counts how much of it was read."""

    def __init__(self) -> None:
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(1_000):
            self.read += 64_000
            yield b"x" * 64_000


@pytest.fixture
def port(harness: ApiHarness) -> Callable[..., httpx.AsyncClient]:
    """Calls all that an admin port serves."""
    no_metrics: Any = None
    health = Health(harness.clock, no_metrics, harness.commands, no_metrics)
    console = ConsoleHarness(harness).app
    app = application(health, admin=True, api=harness.app, console=console)
    transport = httpx.ASGITransport(app=app, client=("203.0.113.9", 1))
    return lambda **options: httpx.AsyncClient(
        transport=transport, base_url="http://127.0.0.1", **options
    )


@pytest.mark.parametrize("path", [RETRY, "/sign-in", "/anything"])
async def test_a_large_body_is_refused_and_not_read(
    port: Callable[..., httpx.AsyncClient], path: str
) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    async with port(headers=OPERATOR | form) as http:
        body = Body()
        answer = await http.post(path, content=body)
        declared = await http.post(path, content=b"x" * 1_048_577)
    assert answer.status_code in ((413,) if path != "/anything" else (404, 405, 413))
    assert body.read < 2_000_000
    assert declared.status_code == 413
    assert declared.json()["detail"] == "body: larger than 1 MiB"


@pytest.mark.parametrize("content", [b"{", b'{"ids": "none"}', b"x" * 100_000])
async def test_a_stranger_is_refused_before_the_body_is_read(
    port: Callable[..., httpx.AsyncClient], content: bytes
) -> None:
    async with port(headers={"content-type": "application/json"}) as http:
        for path in (RETRY, "/api/v1/people/find", "/api/v1/unknown"):
            answer = await http.post(path, content=content)
            assert answer.status_code == 401
            assert answer.headers["content-type"] == "application/problem+json"
        assert (await http.get("/api/v1/dead-letters?cursor=wrong")).status_code == 401
