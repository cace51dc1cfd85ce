"""Makes the call of a built webhook once, as Klaviyo would, and returns the answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from connector.service.webhook_builder.step import Webhook

_EXAMPLE = "you@example.com"

Send = Callable[[str, Mapping[str, str], bytes], Awaitable[tuple[int, str]]]
"""Makes one POST: (URL, headers, body) → (status, text)."""


def trial_body(webhook: Webhook, email: str, run: str) -> str:
    """The body for this address. `run` makes its key one that no earlier test used."""
    found: Any = json.loads(webhook.sample.replace(_EXAMPLE, email))
    for item in found if isinstance(found, list) else [found]:
        name = str(item.get("idempotency_key", "")).partition(":")[0]
        item["idempotency_key"] = f"{name or 'test'}:test-{run}"
    return json.dumps(found, ensure_ascii=False)


async def send_test(webhook: Webhook, email: str, run: str, send: Send) -> tuple[int, str]:
    """(status, text) of the answer; status 0: there was none, and why."""
    return await send(webhook.url, webhook.headers, trial_body(webhook, email, run).encode())
