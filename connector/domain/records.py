"""Records from source to settlement: the log side of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from connector.domain.lanes import DeliveryMode, Lane, LaneId, Millis, Via
from connector.domain.profiles import Observation


@dataclass(frozen=True, slots=True)
class Record:
    """What a source says, as it said it.

    `key` is the source's own id of the thing said, or a hash that stands for it: the same `key`
    twice is a redelivery. With `repeat_window` (ms) the key counts again once the last record of
    that key was received longer ago. `data` is the source's JSON, untouched. `person` is the
    platform's id. With `refresh` the person is to be read again; with `refetch` that read uses no
    extra fetched before (see PersonRef). `membership` is an audience, by the platform's id or
    name, and whether the person is in it from now on. `observation` is what the event itself says
    of the person's fields, for whoever he turns out to be.
    """

    key: str
    unique_id: str
    name: str
    occurred_at: Millis
    data: bytes
    person: str | None = None
    email: str | None = None
    repeat_window: int | None = None
    refresh: bool = False
    refetch: bool = False
    membership: tuple[str, bool] | None = None
    observation: Observation | None = None

    def with_new_id(self, received_at: Millis) -> Record:
        """The record when its key counts again: another event with the same content, which
        Klaviyo would take for a repeat of the first one."""
        return replace(self, unique_id=f"{self.unique_id}:{received_at}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a stream has been read. `cursor` is opaque to everyone but the source."""

    stream: str
    cursor: str


@dataclass(frozen=True, slots=True)
class Page:
    """Records for one lane and the checkpoint that stands for them: stored together or not at
    all. `checkpoint` belongs to the lane's connection.

    `reads` is the lane on which people are read again, for records that want it: not before `gap`
    ms after the last read of the same person, and those records wait `attach_wait` ms for it.
    With `by_id` a person whose address is not known is read for each of his records: the platform
    can be asked by its id alone.
    """

    lane: Lane
    via: Via
    records: Sequence[Record]
    received_at: Millis
    checkpoint: Checkpoint | None = None
    backfill: bool = False
    read_lane: LaneId | None = None
    attach_wait: int = 0
    min_read_interval: int = 0
    by_id: bool = False


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a page: `accepted` records are new, `duplicates` were known, `held` (a part
    of accepted) wait for their person's address, `released` had waited for one that it brought,
    `forgotten` are about people who must not come back, and were not stored."""

    accepted: int
    duplicates: int
    held: int = 0
    released: int = 0
    forgotten: int = 0


class State(IntEnum):
    """Where a record stands. `READY` and `CLAIMED` are the backlog."""

    READY = 0
    CLAIMED = 1
    ACCEPTED = 2
    SKIPPED = 3
    HELD = 4
    DEAD = 5
    DISCARDED = 6


@dataclass(frozen=True, slots=True)
class Entry:
    """A claimed record. `attempts` counts this attempt.

    In the outbox, `mode` SINGLE means that the record may have been applied already: it goes where
    a repeat is harmless, rendered with `mapping` if that is set.
    """

    seq: int
    unique_id: str
    name: str
    occurred_at: Millis
    received_at: Millis
    email: str | None
    person: int | None
    data: bytes
    attempts: int
    mode: DeliveryMode
    mapping: str | None
    backfill: bool
    failing_since: Millis | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Entries that this holder alone may send, until it settles them or loses its lease."""

    token: int
    lane: Lane
    entries: Sequence[Entry]
