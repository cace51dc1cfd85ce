"""How WLL tells: what happens to a user, and the webhook of a reactor.

Guesses: what the payloads of events hold.
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
class Said:
    """Something that happened and waits to be told by webhook."""

    type: str
    user: User
    payload: dict[str, Any]


def happen(user: User, pick: random.Random) -> Said:
    """Let something happen to a user."""
    affordable = [reward for reward in REWARDS if reward[1] <= user.points]
    if affordable and pick.random() < 0.3:
        name, price = pick.choice(affordable)
        user.move(-price)
        return Said("PURCHASED_REWARD", user, {"rewardName": name, "price": price})
    amount = pick.randrange(5, 200)
    user.move(amount)
    if pick.random() < 0.5:
        return Said("POINTS_ADJUSTED", user, {"amount": amount})
    return Said("CASHBACK_REGISTERED", user, {"amount": amount / 10, "points": amount})


class Telling:
    """Makes webhooks, with `secret` at the end of their address."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._told = 0
        self._last = 0

    def webhook(self, said: Said, now: float) -> Webhook:
        """What tells of it. Each has a time of its own, for an event is known by nothing else."""
        self._told += 1
        self._last = max(int(now * 1000), self._last + 1)
        body = {
            "type": said.type,
            "reportedAt": stamp(_EPOCH + timedelta(milliseconds=self._last)),
            "subject": said.user.auth,
            "payload": said.payload,
        }
        headers = {"content-type": "application/json"}
        return Webhook(f"wll-{self._told}", headers, orjson.dumps(body), f"/{self._secret}")
