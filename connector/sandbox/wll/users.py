"""A WLL tenant's users and audiences.

The fields of a user are those of the vendor's pages and its SDK's types. Guesses: one response
contains all of them, the prices of tiers and rewards, the order of lists (by joining).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

TIERS = (("Bronze", 0), ("Silver", 500), ("Gold", 1500), ("Platinum", 4000))
"""Tier names and the earned points that each requires."""
REWARDS = (("Free coffee", 150), ("5 GBP off", 500), ("Breakfast for two", 1800))

_GIVEN = ("Amy", "Ben", "Cora", "Dan", "Ella", "Finn", "Grace", "Hal", "Iris", "Jack")
_FAMILY = ("Archer", "Brook", "Clarke", "Dunn", "Evans", "Frost", "Green", "Hill", "Iqbal", "Jones")
_GENERATED_PREFIX = "crowd-"


@dataclass(slots=True)
class User:
    """A user. `points`: spendable. `earned`: decide the tier. `extra`: merged into the view."""

    id: str
    auth: str
    account: int
    email: str
    given: str
    family: str
    points: int
    earned: int
    joined: datetime
    restricted: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def balance(self) -> int:
        """The spendable points."""
        return self.points

    @property
    def tier(self) -> tuple[str, int]:
        """The highest tier that the earned points reach: (name, required points)."""
        return [tier for tier in TIERS if tier[1] <= self.earned][-1]

    def adjust_points(self, amount: int) -> None:
        """Change the points. Spending does not reduce the earned points."""
        self.points += amount
        self.earned += max(0, amount)

    def view(self) -> dict[str, Any]:
        """The user object of `GET /users/{subject}`."""
        name, requirement = self.tier
        return {
            "id": self.id,
            "authIdentifier": self.auth,
            "accountNumber": str(self.account),
            "emailAddress": self.email,
            "givenName": self.given,
            "familyName": self.family,
            "telephone": f"+44770090{self.account % 10_000:04d}",
            "birthDate": f"19{60 + self.account % 40}-0{1 + self.account % 9}-1{self.account % 10}",
            "isRestricted": self.restricted,
            "attributes": {"favouriteStore": "Soho" if self.account % 2 else "Camden"},
            "wallet": {
                "points": self.points,
                "tier": {
                    "id": _id(f"tier {name}"),
                    "name": name,
                    "pointsRequirement": requirement,
                    "earnedPoints": self.earned,
                    "effectivity": {
                        "start": stamp(self.joined),
                        "end": stamp(self.joined + timedelta(days=365)),
                    },
                },
            },
            **self.extra,
        }


class Users:
    """The registered users, in the order of registration."""

    def __init__(self, count: int, now: datetime) -> None:
        self._users: list[User] = []
        self._ids: dict[str, User] = {}
        for i in range(count):
            self.add(f"user{i}@wll.example.org", now, points=i * 37 % 2000, earned=i * 91 % 5000)

    def __iter__(self) -> Iterator[User]:
        return iter(self._users)

    def __len__(self) -> int:
        return len(self._users)

    def add(self, email: str, now: datetime, **fields: Any) -> User:
        """Add a user; `fields` are fields of `User`."""
        number = len(self._users)
        values: dict[str, Any] = {
            "id": _id(f"user {number}"),
            "auth": f"crm-{1001 + number}",
            "account": 1_000_001 + number,
            "email": email,
            "given": _GIVEN[number % 10],
            "family": _FAMILY[number // 10 % 10],
            "points": 0,
            "earned": 0,
            "joined": now,
            **fields,
        }
        user = User(**values)
        self._users.append(user)
        self._ids |= {user.id: user, user.auth: user, str(user.account): user}
        return user

    def get(self, subject: str) -> User | None:
        """The user with this id, authIdentifier or account number; also a generated user."""
        user = self._ids.get(subject)
        if (
            user is None
            and subject.startswith(_GENERATED_PREFIX)
            and subject[len(_GENERATED_PREFIX) :].isdigit()
        ):
            return generated_user(int(subject[len(_GENERATED_PREFIX) :]))
        return user

    def page(self, start: int, limit: int) -> list[User]:
        """`limit` users, starting at number `start`."""
        return self._users[start : start + limit]


@dataclass(slots=True)
class GeneratedAudience:
    """An audience of `size` users that are generated on access, starting at number `first`. They
    take no memory, so an audience may have millions."""

    id: str
    name: str
    size: int
    first: int = 0

    def replace_members(self, share: float) -> int:
        """Replace this share of the members with others; returns their number."""
        count = round(self.size * share)
        self.first += count
        return count

    def page(self, start: int, limit: int) -> list[User]:
        """`limit` members, starting at index `start`."""
        end = min(start + limit, self.size)
        return [generated_user(self.first + place) for place in range(start, end)]


@dataclass(slots=True)
class Tier:
    """An audience of the users in one tier, as of the last refresh."""

    id: str
    name: str
    members: dict[str, User] = field(default_factory=dict)

    def refresh(self, users: Users) -> tuple[list[User], list[User]]:
        """Recompute the members; returns (joined, left)."""
        now = {user.id: user for user in users if user.tier[0] == self.name}
        joined = [user for id, user in now.items() if id not in self.members]
        left = [user for id, user in self.members.items() if id not in now]
        self.members = now
        return joined, left

    def page(self, start: int, limit: int) -> list[User]:
        """`limit` members, starting at index `start`."""
        return list(self.members.values())[start : start + limit]


Audience = GeneratedAudience | Tier


def generated_user(number: int) -> User:
    """The user with this number; always the same."""
    return User(
        id=_id(f"crowd {number}"),
        auth=f"{_GENERATED_PREFIX}{number}",
        account=5_000_000 + number,
        email=f"crowd{number}@wll.example.org",
        given=_GIVEN[number % 10],
        family=_FAMILY[number // 10 % 10],
        points=number % 2000,
        earned=number % 5000,
        joined=datetime(2026, 1, 1, tzinfo=UTC),
    )


def tiers() -> list[dict[str, Any]]:
    """The data of `GET /tiers`."""
    return [
        {"id": _id(f"tier {name}"), "name": name, "priority": place, "pointsRequirement": points}
        for place, (name, points) in enumerate(TIERS)
    ]


def rewards() -> list[dict[str, Any]]:
    """The data of `GET /rewards`."""
    return [
        {
            "id": _id(f"reward {name}"),
            "name": name,
            "price": price,
            "value": None,
            "availability": {"start": "2026-01-01T00:00:00.000Z", "end": None},
            "purchasable": True,
        }
        for name, price in REWARDS
    ]


def stamp(moment: datetime) -> str:
    """`2026-11-20T09:30:00.000Z`."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"wll {name}"))
