"""Points adjustments and pushes that flows and segments request at a platform."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from connector.domain.lanes import Lane, Millis, Suppression

ActionName = Literal["increase", "decrease", "adjust", "push"]


@dataclass(frozen=True, slots=True)
class Action:
    """One adjustment or push, as it was requested.

    `amount` is signed points. `earned`: whether it also counts towards points ever earned;
    `visible`: whether the person sees it. `ref` is our reference, made when the action is stored;
    look-ups search for it at platforms that keep one. `customer` is the id that the caller gave,
    the platform's or Klaviyo's; `email` and `person` (the platform's id) are what is known of the
    person.
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


REF_PATTERN = re.compile(rb"lc(?<!\wlc)[0-9a-f]{10}\b")
"""`Action.ref` as a word inside anything that a platform returns. It begins with its letters, so
that the search for them is one for a fixed text."""


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """An action and its identity: the same `key` for the same person on the same `route` is the
    same action, for `window` ms (None: as long as keys are kept)."""

    action: Action
    route: str
    key: str
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits in 24 h above which actions are held for approval: adjustments `per_person`, and the
    sum of absolute points in `total` (0: no limit)."""

    per_person: int
    total: int = 0


@dataclass(frozen=True, slots=True)
class ActionBatch:
    """The actions of one call, all stored or none. `lane` is the platform's lane of actions.
    `suppressed` as in connector.domain.records.Page."""

    lane: Lane
    origin: Origin
    requests: Sequence[ActionRequest]
    received_at: Millis
    caps: Caps
    suppressed: Suppression | None = None


@dataclass(frozen=True, slots=True)
class ActionReceipt:
    """How a call was stored: new actions to send, duplicates of stored ones, and new actions held
    because they exceed a cap."""

    accepted: int
    duplicates: int
    held: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing of the call was stored: the key of its `item` (from 1) belongs to a stored action
    with other content."""

    item: int
