"""Members of a JeriCommerce program, and the effects of events on them.

Names are those of the 2026 reference, else of the preview pages. Guesses: the keys of `properties`
other than `amount` and `rewardTitle`.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol

TIERS = (("Bronze", 0), ("Silver", 500), ("Gold", 1500), ("Platinum", 4000))
"""Tier names and the tier points that each requires."""

_FIRST = ("Ana", "Bruno", "Carla", "Diego", "Elena", "Fabio", "Greta", "Hugo", "Irene", "Jorge")
_LAST = ("Garcia", "Lopez", "Rossi", "Martin", "Silva", "Moreau", "Weber", "Costa", "Ruiz", "Vega")


class PersonOwner(Protocol):
    """The sandbox that a person is a member of."""

    def moment(self) -> datetime:
        """The current time."""

    def changed(self, person: Person) -> None:
        """Called after a person was changed."""


@dataclass(slots=True)
class Person:
    """A member. `balance`: spendable points. `tier_balance`: points that count for the tier.
    `tier`: an index into `TIERS`, or None. `extra`: merged into `userData`."""

    id: str
    email: str
    first_name: str
    last_name: str
    phone: str | None
    birthdate: date | None
    balance: int
    tier: int | None
    tier_balance: int
    entered_at: date
    expires_at: date
    created: datetime
    updated: datetime
    verified: bool = False
    passes: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    owner: PersonOwner | None = field(default=None, repr=False, compare=False)

    def change(self, **fields: Any) -> None:
        """Set fields: `balance=5, tier="Gold"`, `email=…`.

        `tier`: a name, an index into `TIERS` or None. Dates are dates or ISO strings.
        """
        for name, value in fields.items():
            if name not in _CHANGEABLE:
                raise ValueError(f"a person has no changeable field {name!r}")
            if name == "tier" and isinstance(value, str):
                value = [tier for tier, _ in TIERS].index(value)
            elif name in _DATES and isinstance(value, str):
                value = date.fromisoformat(value)
            elif name == "email":
                value = value.lower()
            setattr(self, name, value)
        if self.owner is not None:
            self.updated = self.owner.moment()
            self.owner.changed(self)

    def adjust_points(self, amount: int, now: datetime) -> None:
        """Change the balance. Spending does not reduce the tier points."""
        self.balance += amount
        self.tier_balance += max(0, amount)
        self.updated = now

    def enter(self, tier: int, now: datetime) -> None:
        """Enter a tier for a year."""
        self.tier = tier
        self.tier_balance = max(TIERS[tier][1], 0)
        self.entered_at = now.date()
        self.expires_at = now.date() + timedelta(days=365)
        self.updated = now

    def view(self, program: str) -> dict[str, Any]:
        """The customer object of `GET …/customers/{email}`."""
        created, updated = iso(self.created), iso(self.updated)
        return {
            "id": self.id,
            "programId": program,
            "email": self.email,
            "origin": "JERICOMMERCE",
            "referral": None,
            "utmCampaign": None,
            "utmSource": None,
            "utmMedium": None,
            "balanceNotifications": True,
            "tierNotifications": True,
            "rewardAvailableNotifications": True,
            "locationNotifications": False,
            "marketingNotifications": True,
            "referralEarned": False,
            "createdAt": created,
            "updatedAt": updated,
            "userData": {
                "id": derived(self.id, "user"),
                "customerId": self.id,
                "externalCustomerId": self.id[:8],
                "firstName": self.first_name,
                "lastName": self.last_name,
                "phone": self.phone,
                "birthdate": self.birthdate.isoformat() if self.birthdate else None,
                "emailVerified": self.verified,
                "createdAt": created,
                "updatedAt": updated,
                **self.extra,
            },
            "loyaltyData": {
                "id": derived(self.id, "loyalty"),
                "customerId": self.id,
                "loyaltyCustomerId": self.id[:8],
                "balance": self.balance,
                "memberSince": created,
                "tierStatus": None
                if self.tier is None
                else {
                    "name": TIERS[self.tier][0],
                    "balance": self.tier_balance,
                    "enteredAt": self.entered_at.isoformat(),
                    "expiresAt": self.expires_at.isoformat(),
                },
                "referralLink": f"https://jeri.link/{program}/r/{self.id[:8]}",
            },
        }


_CHANGEABLE = frozenset(Person.__slots__) - {"id", "owner", "created", "updated"}
_DATES = ("birthdate", "entered_at", "expires_at")


def make_person(email: str, now: float, id: str, **fields: Any) -> Person:
    """A new member: no points, the first tier."""
    today = datetime.fromtimestamp(now, UTC).replace(microsecond=0)
    person = Person(
        id=id,
        email=email.lower(),
        first_name="Ana",
        last_name="Garcia",
        phone=None,
        birthdate=None,
        balance=0,
        tier=0,
        tier_balance=0,
        entered_at=today.date(),
        expires_at=today.date() + timedelta(days=365),
        created=today,
        updated=today,
    )
    person.change(**fields)
    return person


def make_people(count: int, now: float, seed: int = 7) -> list[Person]:
    """`count` members, the same for the same seed and day."""
    rng = random.Random(seed)
    today = datetime.fromtimestamp(now, UTC).replace(microsecond=0)
    people = []
    for number in range(count):
        first, last = rng.choice(_FIRST), rng.choice(_LAST)
        tier_points = int(rng.triangular(0, 5000, 300))
        entered = today - timedelta(days=rng.randrange(1, 300))
        people.append(
            Person(
                id=str(uuid.UUID(int=rng.getrandbits(128), version=4)),
                email=f"{first}.{last}.{number:04d}@example.com".lower(),
                first_name=first,
                last_name=last,
                phone=f"+3460{number % 10_000_000:07d}",
                birthdate=date(rng.randrange(1950, 2005), 1, 1)
                + timedelta(days=rng.randrange(365)),
                balance=rng.randrange(0, tier_points + 1),
                tier=max(at for at, (_, start) in enumerate(TIERS) if start <= tier_points),
                tier_balance=tier_points,
                entered_at=entered.date(),
                expires_at=entered.date() + timedelta(days=365),
                created=entered,
                updated=entered,
            )
        )
    return people


Effect = Callable[[Person, random.Random, datetime], dict[str, Any]]


def _earn_or_spend(person: Person, rng: random.Random, now: datetime) -> dict[str, Any]:
    amount = rng.randrange(5, 250)
    if rng.random() < 0.3 and person.balance > 0:
        amount = -min(person.balance, amount)
    return changed(person, amount, "purchase" if amount > 0 else "reward", now)


def changed(person: Person, amount: int, reason: str, now: datetime) -> dict[str, Any]:
    """Change the balance; returns the properties of `Balance changed`."""
    person.adjust_points(amount, now)
    return {"amount": amount, "balance": person.balance, "reason": reason}


def _enter(step: int) -> Effect:
    def effect(person: Person, _: random.Random, now: datetime) -> dict[str, Any]:
        before = person.tier or 0
        # At the first or last tier the previous tier is derived from the step, so that an upgrade
        # always goes up.
        after = min(max(before + step, 0), len(TIERS) - 1)
        if after == before:
            before = after - step
        person.enter(after, now)
        return {"previousTier": TIERS[before][0], "currentTier": TIERS[after][0]}

    return effect


def _redeem(person: Person, rng: random.Random, now: datetime) -> dict[str, Any]:
    cost = min(person.balance, rng.choice((50, 100, 200)))
    person.adjust_points(-cost, now)
    return {"rewardTitle": f"{rng.choice((5, 10, 20))} EUR off", "cost": cost}


def _refer(person: Person, rng: random.Random, now: datetime) -> dict[str, Any]:
    person.adjust_points(100, now)
    return {"amount": 100, "referredCustomerId": _uuid(rng)}


def _verify(person: Person, _: random.Random, now: datetime) -> dict[str, Any]:
    person.verified = True
    person.updated = now
    return {}


def _passes(step: int) -> Effect:
    def effect(person: Person, rng: random.Random, now: datetime) -> dict[str, Any]:
        person.passes = max(0, person.passes + step)
        person.updated = now
        return {"platform": rng.choice(("apple", "google"))}

    return effect


def _place(_: Person, rng: random.Random, __: datetime) -> dict[str, Any]:
    return {"location": rng.choice(("Madrid Centro", "Sevilla Triana", "Valencia Puerto"))}


def _link(_: Person, rng: random.Random, __: datetime) -> dict[str, Any]:
    return {"link": rng.choice(("rewards", "profile", "shop"))}


def _nothing(_: Person, __: random.Random, ___: datetime) -> dict[str, Any]:
    return {}


EVENTS: dict[str, tuple[int, Effect]] = {
    "Customer created": (2, _nothing),
    "Customer birthday": (1, _nothing),
    "Customer scanned": (6, _place),
    "Customer tapped": (3, _place),
    "Wallet pass requested": (4, _passes(0)),
    "Wallet pass installed": (4, _passes(1)),
    "Wallet pass uninstalled": (1, _passes(-1)),
    "Wallet click": (8, _link),
    "Wallet visit": (8, _link),
    "Balance changed": (40, _earn_or_spend),
    "Tier upgraded": (3, _enter(1)),
    "Tier downgraded": (1, _enter(-1)),
    "Reward redeemed (online)": (6, _redeem),
    "Reward redeemed (in-store)": (4, _redeem),
    "Referral completed": (2, _refer),
    "Campaign assigned": (3, _nothing),
    "Account verified": (2, _verify),
    "Check-in at location": (3, _place),
}
"""The 18 event names, each with its weight in the traffic and its effect on the person."""

WEB = frozenset(("Wallet pass requested", "Wallet click", "Wallet visit", "Account verified"))
"""Events from a browser, which have `url` and `browser`."""


def iso(moment: datetime) -> str:
    """A time in the platform's format: `2026-11-20T09:30:00.000Z`."""
    return (
        moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
    )


def derived(id: str, purpose: str) -> str:
    """A stable second UUID for `id`."""
    return str(uuid.uuid5(uuid.UUID(id), purpose))


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
