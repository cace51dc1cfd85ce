"""Lanes, their state, and the units that everything is measured in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NewType

from connector.domain.errors import Problem

Millis = NewType("Millis", int)


Kind = Literal["event", "profile", "membership", "action"]


Via = Literal["webhook", "poll", "backfill", "flow", "scan"]


LaneId = NewType("LaneId", int)


@dataclass(frozen=True, slots=True)
class Lane:
    """One road out: all records of one kind from one connection to one destination."""

    id: LaneId
    connection: str
    destination: str
    kind: Kind


class DeliveryMode(IntEnum):
    """How an entry may be sent: with others in one request, or by itself."""

    BATCH = 0
    SINGLE = 1


LaneMode = Literal["running", "paused", "held", "blocked"]


@dataclass(frozen=True, slots=True)
class LaneState:
    """`paused`: a person did it. `held`: too many deaths, or a target is gone. `blocked`: the lane
    or its account is refused at the far end; a probe tries again by itself."""

    mode: LaneMode = "running"
    problem: Problem | None = None
    detail: str = ""
    since: Millis = Millis(0)


@dataclass(frozen=True, slots=True)
class QuotaUsage:
    """Requests that were allowed to an endpoint within one second, for the memory of quotas."""

    account: str
    endpoint: str
    second: int
    count: int
