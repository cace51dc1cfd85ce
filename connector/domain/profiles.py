"""What is observed about a person, and what is written to their profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

from connector.domain.errors import Problem
from connector.domain.lanes import LaneId, Millis

EmailChange = Literal["new", "move"]
OnLeave = Literal["keep", "unset"]


class WriteMode(IntEnum):
    """SINGLE: the write needs a request of its own (it unsets, moves or cleans up, or an earlier
    attempt was ambiguous). Values as in connector.domain.lanes.DeliveryMode."""

    BULK = 0
    SINGLE = 1


RECONFIRM_AFTER_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class Observation:
    """What one read or event showed of a person.

    `view`        the platform's data in neutral terms
    `changes`     fields that the read covers, as the mapping renders them (None: unset)
    `identity`    the identifiers for Klaviyo
    `at`          when the read was sent
    `lane`        the profile lane
    `since`       when the reason for the read was received
    `address`     `address_hash` of the person's e-mail address, None without one
    `problem`     why the person cannot be sent to Klaviyo, if they cannot
    `email`       the person's address from now on, where the platform reads people by its id
    `withheld`    nothing may be sent about the person; their records lose their address
    `backfill`    a backfill requested it, so its write follows all live traffic
    `partial`     an event showed it, and reads know the person's identity better
    `aliases`     the platform's ids of the person that the read showed, the one to read by first
    `reconfirm_after`  a field that was confirmed this many ms ago or longer is sent again
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
    aliases: tuple[str, ...] = ()
    reconfirm_after: int = RECONFIRM_AFTER_MS


@dataclass(frozen=True, slots=True)
class ProfileWrite:
    """One write to a profile.

    `identity` has email, phone_number or external_id; `profile_id` is Klaviyo's own id, where it
    is known. `lost_jobs` counts the import jobs that held this write and were lost. With
    `is_cleanup` the identity is a former one, whose fields are unset. With
    `pending_move` the profile of that identity gets the address of this one.
    """

    identity: Mapping[str, str]
    sets: Mapping[str, Any]
    unsets: tuple[str, ...] = ()
    profile_id: str | None = None
    is_cleanup: bool = False
    pending_move: Mapping[str, str] | None = None
    lost_jobs: int = 0


ALONE_AFTER = 4
"""After so many lost jobs a person is alone in the next one."""


def job_size(largest: int, lost_jobs: int) -> int:
    """How many people an import job takes whose jobs were lost so often: a tenth each time."""
    return max(1, largest // int(10**lost_jobs))
