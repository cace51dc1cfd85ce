"""What is observed of a person and what is written to their profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

from connector.domain.errors import Problem
from connector.domain.lanes import LaneId, Millis

EmailChange = Literal["new", "move"]


class WriteMode(IntEnum):
    """SINGLE: the write needs a request of its own (it unsets, moves or cleans up, or an earlier
    attempt was ambiguous). Values as in connector.domain.lanes.DeliveryMode."""

    BULK = 0
    SINGLE = 1


OnLeave = Literal["keep", "unset"]


RECONFIRM_AFTER_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class Observation:
    """What one read showed: the view, and the fields and identity that the mapping made of it.

    `changes` holds only what the read covers (None: unset); `at` is when the read was sent.
    `lane` is the profile lane, `since` when what asked for the read was received, `address` a
    digest of account and address (None without one), and `problem` says why the person cannot be
    told to Klaviyo, if he cannot. `email` is set where the platform was asked by its id: it is the
    person's address from then on. Of one who is `withheld` nothing may be told, and his records
    lose the address that they have. What a `backfill` asked for is told after all live traffic.
    With `partial` it was an event that said so, where reads know better who the person is.
    A field that Klaviyo accepted `reconfirm_after` ms ago or longer is sent again.
    """

    person: int
    view: Mapping[str, Any]
    changes: Mapping[str, Any]
    identity: Mapping[str, str]
    at: Millis
    mapping: str
    lane: LaneId
    since: Millis = Millis(0)
    address: bytes | None = None
    email_change: EmailChange = "new"
    problem: Problem | None = None
    email: str | None = None
    withheld: bool = False
    backfill: bool = False
    partial: bool = False
    reconfirm_after: int = RECONFIRM_AFTER_MS


@dataclass(frozen=True, slots=True)
class ProfileWrite:
    """What one write tells Klaviyo about a person.

    `identity` holds email, phone_number or external_id; `profile_id` Klaviyo's own id where it is
    known. `farewell` means the address is a former one, whose fields are all unset; with
    `move_from` the profile of that identity is to get this one's address.
    """

    identity: Mapping[str, str]
    sets: Mapping[str, Any]
    unsets: tuple[str, ...] = ()
    profile_id: str | None = None
    is_cleanup: bool = False
    pending_move: Mapping[str, str] | None = None
