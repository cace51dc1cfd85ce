"""Makes the call of a built webhook once, as Klaviyo would, and returns the answer."""

from __future__ import annotations

import json
from typing import Any

from connector.net.http import send
from connector.tools.webhook_builder.step import Webhook

_EXAMPLE = "you@example.com"


def trial_body(webhook: Webhook, email: str, run: str) -> str:
    """The body for this address. `run` makes its key one that no earlier test used."""
    found: Any = json.loads(webhook.sample.replace(_EXAMPLE, email))
    for item in found if isinstance(found, list) else [found]:
        name = str(item.get("idempotency_key", "")).partition(":")[0]
        item["idempotency_key"] = f"{name or 'test'}:test-{run}"
    return json.dumps(found, ensure_ascii=False)


async def send_test(webhook: Webhook, email: str, run: str) -> tuple[int, str]:
    """(status, text) of the answer; status 0: there was none, and why."""
    return await send(webhook.url, webhook.headers, trial_body(webhook, email, run).encode())
