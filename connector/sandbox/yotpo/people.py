"""Customers of a Yotpo Loyalty account, in the formats of its API and webhooks.

Sources: the loyalty API reference and Swell's docs. Guesses: the name of a tier's threshold, hidden
history items are left out of `with_history`, the coupon codes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

TIERS = (("Bronze", 0), ("Silver", 500), ("Gold", 1500))
"""Tier names, lowest first, and the earned points that each requires."""
REWARDS = ((1, "$5 Coupon", 250), (2, "$10 Coupon", 450), (3, "Tote Bag", 1200))
"""Redemption options: id, name, points."""

_FIRST = ("Ana", "Ben", "Chloe", "Dev", "Emma", "Finn", "Grace", "Hana", "Iris", "Jack")
_LAST = ("Adams", "Brown", "Clark", "Davis", "Evans", "Frank", "Green", "Hill", "Irwin", "Jones")


def iso(moment: datetime) -> str:
    """A time in Yotpo's most common format: `2026-11-20T09:30:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class Customer:
    """A customer. `balance`: spendable points. `earned`: all points ever earned. `tier`: an index
    into `TIERS`, or None. `history`: items in the API's format, oldest first."""

    id: str
    email: str
    first_name: str
    last_name: str
    born: date | None
    balance: int
    earned: int
    tier: int | None
    entered: date
    opted_in: datetime
    seen: datetime
    history: list[dict[str, Any]] = field(default_factory=list)
    on_change: Callable[[Customer], None] = field(default=lambda _: None, repr=False, compare=False)

    def change(self, **fields: Any) -> None:
        """Set fields: `balance=5`, `email=…`, `tier="Gold"`."""
        for name, value in fields.items():
            if name not in self.__slots__ or name in ("id", "on_change"):
                raise ValueError(f"a customer has no changeable field {name!r}")
            if name == "tier" and isinstance(value, str):
                value = [tier for tier, _ in TIERS].index(value)
            setattr(self, name, value)
        self.on_change(self)

    def adjust_points(
        self,
        points: int,
        title: str,
        now: datetime,
        *,
        earned: bool | None = None,
        status: str = "Approved",
        shown: bool = True,
    ) -> None:
        """Change the balance and add a history item. `earned`: whether the points count as earned;
        by default if they are positive."""
        self.balance += points
        self.earned += points if (points > 0 if earned is None else earned) else 0
        self.seen = now
        if shown:
            day = now.date().isoformat()
            item = {"created_at": iso(now), "date": day, "action": title, "points": points}
            self.history.append({**item, "status": status})
        self.on_change(self)

    @property
    def link(self) -> str:
        """The referral link, written without a scheme."""
        return f"rwrd.io/{self.id}"

    def view(self, *, listed: bool = False, history: bool = False) -> dict[str, Any]:
        """The customer object. `listed`: the shorter form of `customers/recent`."""
        tier = None if self.tier is None else TIERS[self.tier]
        above = TIERS[0 if self.tier is None else self.tier + 1 :][:1]
        shown: dict[str, Any] = {
            "email": self.email,
            "first_name": self.first_name,
            "last_name": self.last_name,
            "phone_number": None,
            "third_party_id": self.id,
            "thirty_party_id": self.id,
            "has_store_account": True,
            "opt_in": True,
            # The API mixes times without a zone, with an offset and with Z.
            "opted_in_at": self.opted_in.strftime("%Y-%m-%dT%H:%M:%S"),
            "points_balance": self.balance,
            "points_earned": self.earned,
            "total_spend_cents": self.earned * 100,
            "total_purchases": len(self.history),
            "perks_redeemed": len(self.history),
            "last_seen_at": iso(self.seen),
            "birth_day": self.born.day if self.born else None,
            "birthday_month": self.born.month if self.born else None,
            "birthday_year": self.born.year if self.born else None,
            "vip_tier_name": tier[0] if tier else None,
            "vip_tier_entry_date": f"{self.entered.isoformat()}T12:00:00.000+02:00",
            "vip_tier_expiration": iso(_noon(self.entered) + timedelta(days=365)),
            "vip_tier_actions_completed": {
                "points_earned": self.earned,
                "amount_spent_cents": self.earned * 100,
                "purchases_made": len(self.history),
                "referrals_completed": 0,
                "campaigns_completed": [],
            },
            "vip_tier_upgrade_requirements": {
                "points_needed": max(0, above[0][1] - self.earned),
                "amount_cents_needed": 0,
                "purchases_needed": 0,
                "referrals_needed": 0,
                "campaigns_needed": [],
            }
            if above
            else None,
        }
        if tier is None:
            shown |= {"vip_tier_entry_date": None, "vip_tier_expiration": None}
        if listed:
            return shown
        shown |= {
            "credit_balance": f"${self.balance / 100:.2f}",
            "next_points_expire_on": (self.seen.date() + timedelta(days=180)).isoformat()
            if self.balance > 0
            else None,
            "next_points_expire_amount": self.balance if self.balance > 0 else None,
            "referral_link": {"link": self.link, "code": self.id, "expired": False},
        }
        if history:
            shown["history_items"] = [dict(item) for item in reversed(self.history)]
        return shown

    def webhook_view(self) -> dict[str, Any]:
        """`customer` of a webhook."""
        return {
            "email": self.email,
            "first_name": self.first_name,
            "last_name": self.last_name,
            "third_party_id": self.id,
            "thirty_party_id": self.id,
            "points_earned": self.earned,
            "points_balance": self.balance,
            "has_store_account": True,
            "is_opt_in": True,
            "loyalty_opt_in_date": self.opted_in.strftime("%Y-%m-%dT%H:%M:%S"),
            "vip_tier_name": None if self.tier is None else TIERS[self.tier][0],
            "vip_tier_ends_at": (self.entered + timedelta(days=365)).isoformat(),
            "referral_link": f"http://{self.link}",
            "birth_day": self.born.day if self.born else None,
            "birth_month": self.born.month if self.born else None,
            "birth_year": self.born.year if self.born else None,
        }


def tier_view(index: int) -> dict[str, Any]:
    """A tier in the format of `vip_tiers` and of webhooks."""
    name, points = TIERS[index]
    return {
        "id": 100 + index,
        "name": name,
        "description": f"{name} members",
        "points_earned": points,
        "rank": index + 1,
        "points_multiplier": 1.0 + index / 4,
        "entry_threshold": {"points_earned": points},
    }


def reward_view(index: int) -> dict[str, Any]:
    """A redemption option."""
    id, name, points = REWARDS[index]
    return {
        "id": id,
        "name": name,
        "type": "PointRedemptionOption",
        "amount": points,
        "cost_text": f"{points} Points",
        "discount_type": "fixed_amount",
    }


def make_customer(id: str, email: str, now: datetime, **fields: Any) -> Customer:
    """A new customer: no points, no tier."""
    customer = Customer(id, email, "Ana", "Adams", None, 0, 0, None, now.date(), now, now)
    customer.change(**fields)
    return customer


def make_customers(count: int, now: datetime, seed: int = 11) -> list[Customer]:
    """`count` customers, the same for the same seed and day."""
    rng = random.Random(seed)
    customers = []
    for number in range(count):
        first, last = rng.choice(_FIRST), rng.choice(_LAST)
        then = now - timedelta(days=rng.randrange(10, 300))
        earned = int(rng.triangular(0, 2500, 200))
        tiers = [at for at, (_, points) in enumerate(TIERS) if points <= earned]
        customer = make_customer(
            str(7_000_000 + number),
            f"{first}.{last}.{number:04d}@example.net".lower(),
            then,
            first_name=first,
            last_name=last,
            born=date(rng.randrange(1950, 2005), rng.randrange(1, 13), rng.randrange(1, 29)),
            tier=tiers[-1] if earned else None,
        )
        if earned:
            customer.adjust_points(earned, "Make a Purchase", then)
            spent = rng.randrange(0, earned + 1)
            if spent:
                later = then + timedelta(hours=1)
                code = "FIVE-" + customer.id
                customer.adjust_points(-spent, "$5 Coupon", later, status=code)
        customers.append(customer)
    return customers


def _noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
