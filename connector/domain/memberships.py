"""Groups of people, the links between them, and changes of membership."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from connector.domain.errors import Problem
from connector.domain.lanes import Millis

GroupType = Literal["audience", "segment", "list", "tag"]


class Change(IntEnum):
    """What a write does. Leaves are delivered as connector.domain.lanes.DeliveryMode.SINGLE."""

    JOIN = 0
    LEAVE = 1


@dataclass(frozen=True, slots=True)
class Link:
    """A source that is kept as a target, by their names as configured: an audience as a list, or a
    segment as a tag. With `remove_foreign` members that others added to the target are removed."""

    source: str
    target: str
    remove_foreign: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A group of people: a source (audience, segment), which is scanned, or a target (list, tag),
    which is kept. `target` is the number of a source's target, 0 for a target.

    `name` is as configured; `remote_id` and `title` come from the remote side. A target receives
    no write before `writes_enabled`.

    A scan runs while `scan_started_at` is set; `scan` is its number, `cursor` its next page and
    `saved_at` when its last page was saved. `completed_scan` is the number of the last complete
    scan (0: none); it ended at `completed_at`, took `scan_ms` ms and found `members`, and
    `without_address` more that have no address. While `applied_scan` is lower, the people it did
    not find have not been removed from the target.
    """

    id: int
    connection: str
    kind: GroupType
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

    @property
    def is_target(self) -> bool:
        return self.target == 0

    @property
    def completed_scan_started_at(self) -> Millis | None:
        """When the last complete scan began; None where there is none."""
        return None if self.completed_at is None else Millis(self.completed_at - self.scan_ms)


@dataclass(frozen=True, slots=True)
class MembershipWrite:
    """One write: the person joins the group of this id (`joins`) or leaves it.

    `profile_id` is Klaviyo's id and `platform_id` the platform's, where they are known.
    `lost_jobs` counts the import jobs that held this change and were lost.
    """

    group: str
    joins: bool
    email: str
    profile_id: str | None = None
    platform_id: str | None = None
    lost_jobs: int = 0
