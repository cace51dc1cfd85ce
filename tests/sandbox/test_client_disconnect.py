"""A client that disconnects before its body is complete."""

from __future__ import annotations

from typing import Any

from connector.sandbox import KlaviyoSandbox


async def test_an_incomplete_request_is_not_counted() -> None:
    klaviyo = KlaviyoSandbox()
    messages = [
        {"type": "http.request", "body": b'{"data": ', "more_body": True},
        {"type": "http.disconnect"},
    ]
    answered: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        answered.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/events",
        "query_string": b"",
        "headers": [
            (b"authorization", b"Klaviyo-API-Key pk_sandbox"),
            (b"revision", b"2026-10-15"),
        ],
    }
    await klaviyo.app(scope, receive, send)
    assert answered == []
    assert klaviyo.state()["violations"] == {}
    assert klaviyo.state()["requests"] == {}
