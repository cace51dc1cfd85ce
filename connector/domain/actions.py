"""Points adjustments and pushes that Klaviyo flows ask of a platform."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from connector.domain.lanes import Lane, Millis

ActionName = Literal["increase", "decrease", "adjust", "push"]


@dataclass(frozen=True, slots=True)
class Action:
    """One adjustment or push, as it was asked for.

    `amount` is signed: more or fewer points; `earned` whether it also counts towards points ever
    earned, `visible` whether the person sees it. `ref` is ours, given when it is stored: what the
    action is known by at the platform where it keeps one. `customer` is the id that the caller
    gave, the platform's or Klaviyo's; `email` and `person` (the platform's id) are what is known
    of him.
    """

    name: ActionName
    ref: str = ""
    email: str | None = None
    person: str | None = None
    customer: str | None = None
    amount: int = 0
    reason: str = ""
    earned: bool | None = None
    visible: bool = True
    message: str = ""
    url: str = ""


class Step(IntEnum):
    """What an action needs next. LOOK_UP: it was sent and its outcome is unknown. Look-ups are
    delivered as connector.domain.lanes.DeliveryMode.SINGLE."""

    SEND = 0
    LOOK_UP = 1


Origin = Literal["flow", "segment"]


REF_PATTERN = re.compile(r"\blc[0-9a-f]{10}\b", re.ASCII)
"""What `Action.ref` looks like wherever a platform gives it back."""


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """An action and what it is known again by: the same `key` for the same person on the same
    `route` is the same action, for `window` ms (None: for as long as keys are kept)."""

    action: Action
    route: str
    key: str
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Caps:
    """What a day (24 h) may hold before a person is asked: adjustments `per_person`, and points up
    or down in `total` (0: as many as you like)."""

    per_person: int
    total: int = 0


@dataclass(frozen=True, slots=True)
class ActionBatch:
    """Actions of one call: stored whole or not at all. `lane` is the platform's lane of actions."""

    lane: Lane
    origin: Origin
    requests: Sequence[ActionRequest]
    received_at: Millis
    caps: Caps


@dataclass(frozen=True, slots=True)
class ActionReceipt:
    """What became of a call: new actions that go out, those known before, and new ones that wait
    for a person because of a cap."""

    accepted: int
    duplicates: int
    held: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing of the call was stored: its `item` (from 1) has the key of another action with other
    content."""

    item: int
