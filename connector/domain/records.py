"""Records from source to settlement: the log side of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from connector.domain.lanes import DeliveryMode, Lane, LaneId, LaneKind, Millis, Suppression, Via
from connector.domain.profiles import Observation


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that a source sent, unchanged.

    `key` is the source's own id of it, or a hash where it has none: the same `key` twice is a
    redelivery. With `repeat_window` (ms) the key counts again once the last record of that key was
    received longer ago. `data` is the source's JSON, untouched. `person` is the platform's id. With
    `refresh` the person is to be read again; with `refetch` that read uses no extra fetched before
    (see PersonRef). `membership` is an audience, by the platform's id or name, and whether the
    person is in it from now on. `observation` holds the fields that the event itself carries, for
    the person it belongs to. `aliases` are further ids of the platform for the same person.
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
    aliases: tuple[str, ...] = ()

    def with_new_id(self, received_at: Millis) -> Record:
        """The record when its key counts again: another event with the same content, which
        Klaviyo would take for a repeat of the first one."""
        return replace(self, unique_id=f"{self.unique_id}:{received_at}")


FIRST_POLL_STREAM = "people, first poll"
"""The stream with the cursor of a first poll that has not ended: the people after it are still
those of a backfill. It is a stream of its own for replicas of an earlier version, which begin such
a poll again."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a stream has been read. `cursor` is opaque to everyone but the source."""

    stream: str
    cursor: str


@dataclass(frozen=True, slots=True)
class Page:
    """Records for one lane and the checkpoint that covers them, which is never stored without them.
    `checkpoint` belongs to the lane's connection.

    `read_lane` is the lane on which people are read again, for records with `refresh`: not before
    `min_read_interval` ms after the last read of the same person. Such records wait up to
    `attach_wait` ms for the read. With `by_id` a person whose address is not known is read for each
    of their records, because the platform can be asked by its id alone. `suppressed`: why nothing
    is sent while these records are received; they are skipped for that reason.
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
    suppressed: Suppression | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """The result of a page: `accepted` records are new, `duplicates` were stored before, `held` (a
    part of accepted) wait for their person's address, `released` had waited for an address that
    this page brought, `forgotten` are about people with a tombstone and were not stored. `lanes`
    are those that have something to do, and when the first of it is due."""

    accepted: int
    duplicates: int
    held: int = 0
    released: int = 0
    forgotten: int = 0
    lanes: Mapping[LaneKind, Millis] = field(default_factory=dict, compare=False)

    def __add__(self, other: Appended) -> Appended:
        """The result of both parts of a page."""
        return Appended(
            self.accepted + other.accepted,
            self.duplicates + other.duplicates,
            self.held + other.held,
            self.released + other.released,
            self.forgotten + other.forgotten,
            {
                kind: min(lanes[kind] for lanes in (self.lanes, other.lanes) if kind in lanes)
                for kind in {**self.lanes, **other.lanes}
            },
        )


class State(IntEnum):
    """The state of a record. `READY` and `CLAIMED` are the backlog."""

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

    In the outbox, `mode` SINGLE means that the record may have been applied already: it is sent
    where a repeat is harmless, rendered with `mapping` if that is set. An action that is looked up
    has the version that it was sent with there. `suppressed`: nothing was
    sent for this reason when it was received, so it is skipped.
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
    suppressed: Suppression | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Entries that this holder alone may send, until it settles them or loses its lease."""

    token: int
    lane: Lane
    entries: Sequence[Entry]
