"""Yotpo's webhooks: every topic whose name is known, its effect on a customer, and its body.

For a redemption or a new tier `customer` is the state before it, as in Yotpo's examples.
Guesses: how an account without event ids repeats webhooks, the sign of `difference`.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import orjson

from connector.sandbox.traffic import Webhook
from connector.sandbox.yotpo.people import REWARDS, TIERS, Customer, iso, reward_view, tier_view

Effect = Callable[[Customer, random.Random, datetime], dict[str, Any]]


def changed(customer: Customer, points: int, reason: str, before: int) -> dict[str, Any]:
    """The body for a change of the balance."""
    return {
        "previous_balance": before,
        "current_balance": customer.balance,
        "difference": points,
        "added_or_removed": "added" if points > 0 else "removed",
        "points_changed_reason": reason,
        "customer": customer.webhook_view(),
    }


def _change(customer: Customer, rng: random.Random, now: datetime) -> dict[str, Any]:
    before, points = customer.balance, rng.randrange(5, 200)
    reason = "Make a Purchase"
    if rng.random() < 0.2 and before > 0:
        points, reason = -min(before, points), "Points Expired"
    customer.adjust_points(points, reason, now)
    return changed(customer, points, reason, before)


def _earn(customer: Customer, rng: random.Random, now: datetime) -> dict[str, Any]:
    points = rng.randrange(5, 200)
    customer.adjust_points(points, "Write a Review", now)
    return {"perk": _perk(customer, points, rng, now), "customer": customer.webhook_view()}


def _redeem(customer: Customer, rng: random.Random, now: datetime) -> dict[str, Any]:
    index = rng.randrange(len(REWARDS))
    _, name, cost = REWARDS[index]
    code, before = f"CODE-{rng.randrange(10**6):06d}", customer.webhook_view()
    if customer.balance >= cost:
        customer.adjust_points(-cost, name, now, status=code)
    redemption = {
        "id": rng.randrange(10**9),
        "created_at": iso(now),
        "reward_text": code,
        "approved": True,
        "is_admin": False,
        "at_checkout": False,
    }
    return {"redemption": redemption, "redemption_option": reward_view(index), "customer": before}


def _enter(step: int) -> Effect:
    def effect(customer: Customer, _: random.Random, now: datetime) -> dict[str, Any]:
        before, old = customer.webhook_view(), customer.tier
        new = max(0, (old if old is not None else -1) + step)
        new = min(new, len(TIERS) - 1)
        customer.change(tier=new, entered=now.date())
        body: dict[str, Any] = {"new_tier": tier_view(new), "customer": before}
        return body | ({"old_tier": tier_view(old)} if old is not None else {})

    return effect


def _status(customer: Customer, _: random.Random, __: datetime) -> dict[str, Any]:
    stats = {
        "pointsEarned": customer.earned,
        "amountSpentCents": customer.earned * 100,
        "purchasesMade": len(customer.history),
        "referralsCompleted": 0,
    }
    needed = customer.view()["vip_tier_upgrade_requirements"] or {}
    return {
        "vip_stats": stats,
        "vip_stats_needed_maintain": {},
        "vip_stats_needed_next": needed,
        "customer": customer.webhook_view(),
    }


def _share(customer: Customer, rng: random.Random, _: datetime) -> dict[str, Any]:
    return {
        "email": f"friend.{rng.randrange(500):03d}@example.org",
        "from": customer.email,
        "customer": customer.webhook_view(),
        "referral_link": f"http://{customer.link}",
    }


def _refer(customer: Customer, rng: random.Random, now: datetime) -> dict[str, Any]:
    customer.adjust_points(100, "Refer a Friend", now)
    return {
        "perk": _perk(customer, 100, rng, now),
        "referral_code": {"code": customer.id, "shares": 1},
        "customer": customer.webhook_view(),
    }


def _birthday(customer: Customer, rng: random.Random, now: datetime) -> dict[str, Any]:
    before = customer.webhook_view()
    customer.adjust_points(50, "Birthday", now)
    return {"perk": _perk(customer, 50, rng, now), "customer": before}


def _reward_near(customer: Customer, rng: random.Random, _: datetime) -> dict[str, Any]:
    option = reward_view(rng.randrange(len(REWARDS)))
    needed = max(0, option["amount"] - customer.balance)
    return {
        "points_needed": needed,
        "redemption_option": option,
        "customer": customer.webhook_view(),
    }


def _expiring(customer: Customer, _: random.Random, now: datetime) -> dict[str, Any]:
    return {
        "loyalty_next_points_expire_on": (now.date() + timedelta(days=30)).isoformat(),
        "loyalty_next_points_expire_amount": customer.balance,
        "days_to_point_expiration": 30,
        "customer": customer.webhook_view(),
    }


def _nothing(customer: Customer, _: random.Random, __: datetime) -> dict[str, Any]:
    return {"customer": customer.webhook_view()}


TOPICS: dict[str, tuple[str, int, Effect]] = {
    "swell/points/changed": ("Swell Points Changed", 40, _change),
    "swell/points/earned": ("Swell Points Earned", 15, _earn),
    "swell/points/reminder": ("Swell Points Reminder", 3, _reward_near),
    "swell/redemption/reminder": ("Swell Redemption Reminder", 3, _reward_near),
    "swell/redemption/created": ("Swell Redemption Created", 10, _redeem),
    "swell/redemption_code/below_threshold": ("Swell Redemption Code Below Threshold", 1, _nothing),
    "swell/tier/earned": ("Swell Tier Earned", 3, _enter(1)),
    "swell/tier/lost": ("Swell Tier Lost", 1, _enter(-1)),
    "swell/tier/status/changed": ("Swell Tier Status Changed", 3, _status),
    "swell/referral/share": ("Swell Referral Share", 3, _share),
    "swell/referral/completed": ("Swell Referral Completed", 2, _refer),
    "swell/customer/birthday": ("Swell Customer Birthday", 2, _birthday),
    "swell/account/created": ("Swell Account Created", 2, _nothing),
    "loyalty/opt_in": ("Loyalty Opt In", 2, _nothing),
    "loyalty/opt_out": ("Loyalty Opt Out", 1, _nothing),
    "loyalty/expiration/reminder": ("Loyalty Expiration Reminder", 3, _expiring),
}
"""Every topic whose string is known: its name, its weight in the traffic, its effect."""


class WebhookFactory:
    """Creates webhooks. `event_ids`: share of webhooks with an `eventid` header. The secret is at
    the end of the URL, or in `secret_header` if that is set."""

    def __init__(self, secret: str, secret_header: str, event_ids: float) -> None:
        self._secret = secret
        self._header = secret_header
        self._event_ids = event_ids
        # Each topic is used once before topics are random, so that a short demo has all.
        self._unsent = list(TOPICS)

    def next_topic(self, rng: random.Random) -> str:
        """The topic of the next event."""
        if self._unsent:
            return self._unsent.pop(rng.randrange(len(self._unsent)))
        (topic,) = rng.choices(list(TOPICS), [weight for _, weight, _ in TOPICS.values()])
        return topic

    def webhook(
        self, topic: str, customer: Customer, payload: dict[str, Any], rng: random.Random
    ) -> Webhook:
        """The webhook of an event. `payload` may have another address than the customer's."""
        id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        body = {"topic": topic, "name": TOPICS[topic][0], "email": customer.email, **payload}
        headers = {"content-type": "application/json"}
        if rng.random() < self._event_ids:
            headers["eventid"] = id
        if self._header:
            headers[self._header.lower()] = self._secret
        suffix = "" if self._header else f"/{self._secret}"
        return Webhook(id, headers, orjson.dumps(body), suffix)


def _perk(customer: Customer, points: int, rng: random.Random, now: datetime) -> dict[str, Any]:
    return {
        "id": rng.randrange(10**9),
        "merchant_id": 1,
        "reward_points": points,
        "history_title": customer.history[-1]["action"],
        "created_at": iso(now),
        "awarded_at": iso(now),
        "pending": False,
    }
