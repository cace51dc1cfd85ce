"""WLL's webhooks: events of users and the webhook of a reactor.

Guesses: the payloads of events.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from connector.sandbox.traffic import Webhook
from connector.sandbox.wll.users import REWARDS, User, stamp

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """An event whose webhook was not sent yet."""

    type: str
    user: User
    payload: dict[str, Any]


def random_event(user: User, rng: random.Random) -> PendingEvent:
    """Make a random event happen to a user."""
    affordable = [reward for reward in REWARDS if reward[1] <= user.points]
    if affordable and rng.random() < 0.3:
        name, price = rng.choice(affordable)
        user.adjust_points(-price)
        return PendingEvent("PURCHASED_REWARD", user, {"rewardName": name, "price": price})
    amount = rng.randrange(5, 200)
    user.adjust_points(amount)
    if rng.random() < 0.5:
        return PendingEvent("POINTS_ADJUSTED", user, {"amount": amount})
    return PendingEvent("CASHBACK_REGISTERED", user, {"amount": amount / 10, "points": amount})


class WebhookFactory:
    """Creates webhooks, with `secret` at the end of their URL."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._count = 0
        self._last = 0

    def webhook(self, event: PendingEvent, now: float) -> Webhook:
        """The webhook of an event. Each has a unique time, the only identity of an event."""
        self._count += 1
        self._last = max(int(now * 1000), self._last + 1)
        body = {
            "type": event.type,
            "reportedAt": stamp(_EPOCH + timedelta(milliseconds=self._last)),
            "subject": event.user.auth,
            "payload": event.payload,
        }
        headers = {"content-type": "application/json"}
        return Webhook(f"wll-{self._count}", headers, orjson.dumps(body), f"/{self._secret}")
