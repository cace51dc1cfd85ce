"""Groups of people and changes of membership."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from connector.domain.errors import Problem
from connector.domain.lanes import Millis


class Change(IntEnum):
    """What a write does. Leaves are delivered as connector.domain.lanes.DeliveryMode.SINGLE."""

    JOIN = 0
    LEAVE = 1


@dataclass(frozen=True, slots=True)
class Link:
    """An audience that is kept as a list, or a segment as a tag, by their names as configured.
    With `removes` members of the list whom we did not put there are taken off."""

    source: str
    target: str
    remove_foreign: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A group of people: a source, which is read, or a target (`target` 0), which is kept.

    A scan runs while `begun_at` is set, from `cursor` on; `complete` is the number of the last one
    that came to its end, after `took` ms, and found `members`. While it is not `applied` those
    whom it did not find have not left.
    """

    id: int
    connection: str
    kind: Literal["audience", "segment", "list", "tag"]
    name: str
    target: int
    remote_id: str | None
    title: str
    writes_enabled: bool
    scan: int
    cursor: str | None
    scan_started_at: Millis | None
    saved_at: Millis | None
    completed_scan: int
    completed_at: Millis | None
    scan_ms: int
    applied_scan: int
    members: int
    without_address: int
    problem: Problem | None
    detail: str


@dataclass(frozen=True, slots=True)
class MembershipWrite:
    """What one write tells of a person: that he `joins` the group of this id, or leaves it.

    `profile` is Klaviyo's id and `platform_id` the platform's, where they are known; `split` is how
    often a job that held the person was lost."""

    group: str
    joins: bool
    email: str
    profile_id: str | None = None
    platform_id: str | None = None
    lost_jobs: int = 0
