"""Klaviyo's bulk profile import jobs: queued, processing, complete, cancelled or expired.

Nothing runs in the background: what is due by `now()` is done at the next access. All profiles of a
job are written when it completes.

Sources: the published spec (statuses, counts, 7 days) and a response recorded live (ids, times).
Guesses: an expired job is answered 404; a cancelled job wrote nothing; `completed_count` counts
what did not fail; codes, titles and pointers of import errors; `original_payload` is the profile as
sent.
"""

from __future__ import annotations

import base64
import heapq
import math
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from connector.sandbox.klaviyo.lists import Lists
from connector.sandbox.klaviyo.profile_rules import PROFILES
from connector.sandbox.klaviyo.rules import ProfileIn
from connector.sandbox.klaviyo.state import Memory
from connector.sandbox.klaviyo.write_ledger import Ledger, identifiers_of

Status = Literal["queued", "processing", "complete", "cancelled"]
RETENTION_SECONDS = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A profile of an accepted job that was not written."""

    index: int
    code: str
    title: str
    detail: str
    payload: dict[str, Any]


@dataclass(slots=True)
class Job:
    """A bulk import. Times are seconds since 1970. `due`: when it completes by itself.

    `people`: the profiles that wait to be written. `profiles`: the numbers of the written profiles.
    """

    id: str
    created: float
    due: float
    total: int
    lists: list[str]
    people: list[ProfileIn]
    identifiers: set[str]
    dropped: frozenset[int]
    started: float | None = None
    result: float | None = None
    stalled: bool = False
    cancelled: bool = False
    expired: bool = False
    profiles: array[int] = field(default_factory=lambda: array("I"))
    errors: list[Failure] = field(default_factory=list)

    @property
    def expires(self) -> float:
        """The time at which it expires."""
        return self.created + RETENTION_SECONDS

    @property
    def open(self) -> bool:
        """Whether its profiles are not written yet."""
        return self.result is None

    def status(self, now: float) -> Status:
        """A job is queued for half of its time and processing for the other half."""
        if self.cancelled:
            return "cancelled"
        if self.result is not None:
            return "complete"
        if self.stalled or now >= self.begins:
            return "processing"
        return "queued"

    @property
    def begins(self) -> float:
        """The time at which processing starts."""
        if self.started is not None:
            return self.started
        return self.created + (self.due - self.created) / 2


class Jobs:
    """All bulk imports. `delay`: seconds until a job completes, or a function of the job;
    `math.inf` leaves jobs queued until `run`. `patch`: whether `meta.patch_properties` is applied.
    `repeats`: whether the "last" or the "first" of a person's appearances in one job counts.

    `duplicates`: number of such repeated appearances. `ignored`: nulls and patches not applied.
    """

    def __init__(
        self,
        memory: Memory,
        lists: Lists,
        ledger: Ledger,
        now: Callable[[], float],
        *,
        delay: float | Callable[[Job], float],
        patch: bool,
        repeats: Literal["last", "first"],
        account: str,
    ) -> None:
        self.duplicates = 0
        self.ignored: Counter[str] = Counter()
        self._memory = memory
        self._lists = lists
        self._ledger = ledger
        self._now = now
        self._delay = delay
        self._patch = patch
        self._repeats = repeats
        self._account = account
        self._jobs: dict[str, Job] = {}
        self._due: list[tuple[float, int, Job]] = []
        self._open: dict[str, Job] = {}
        self._failures: list[tuple[str, str, str, str]] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, people: list[ProfileIn], lists: list[str]) -> Job:
        """Queue an accepted job."""
        now, number = self._now(), len(self._jobs)
        in_job: set[str] = set()
        dropped = []
        for index, given in enumerate(people):
            seen = self._ledger.note("bulk", given, self._memory.find(given), now)
            if not in_job.isdisjoint(seen):
                self.duplicates += 1
                if self._repeats == "first":
                    dropped.append(index)
            in_job.update(seen)
        id = _id(self._account, number, now)
        job = Job(id, now, now, len(people), lists, people, in_job, frozenset(dropped))
        job.due = now + (self._delay(job) if callable(self._delay) else self._delay)
        self._jobs[id] = self._open[id] = job
        self._ledger.hold(in_job)
        if job.due < math.inf:
            heapq.heappush(self._due, (job.due, number, job))
        return job

    def get(self, id: str) -> Job | None:
        """A job that has not expired."""
        self.settle()
        job = self._jobs.get(id)
        return None if job is None or job.expired else job

    def all(self) -> list[Job]:
        """Every job that has not expired, oldest first."""
        self.settle()
        return [job for job in self._jobs.values() if not job.expired]

    def open(self) -> list[Job]:
        """Jobs that are queued or processing, oldest first."""
        self.settle()
        return list(self._open.values())

    def ids(self, *statuses: Status) -> list[str]:
        """Ids of jobs, oldest first; only those in one of `statuses`, if given."""
        now = self._now()
        return [job.id for job in self.all() if not statuses or job.status(now) in statuses]

    def settle(self) -> None:
        """Do everything that is due by now, in the order of due times."""
        now = self._now()
        while self._due and self._due[0][0] <= now:
            at, _, job = heapq.heappop(self._due)
            if job.open and not job.stalled:
                self._complete(job, at)
        for job in self._jobs.values():
            if job.expires > now:
                break
            self._expire(job)

    # ── control by tests ─────────────────────────────────────────────────────────────────────────

    def run(self, id: str) -> None:
        """Complete a job now, even a stalled one."""
        job = self._known(id)
        if job.open:
            self._complete(job, self._now())

    def cancel(self, id: str) -> None:
        """Cancel a job that has not completed; none of its profiles is written."""
        job = self._known(id)
        if job.open:
            job.cancelled = True
            self._end(job, self._now())

    def stall(self, id: str) -> None:
        """Keep a job in processing until `run` or `cancel`."""
        job = self._known(id)
        if job.open:
            job.started = min(job.begins, self._now())
            job.stalled = True

    def expire(self, id: str) -> None:
        """Expire a job: it is answered 404, and unwritten profiles are never written."""
        self._expire(self._known(id))

    def fail_matching(
        self, substring: str, code: str, title: str, detail: str = "The profile was not imported."
    ) -> None:
        """Make profiles whose JSON contains `substring` fail in accepted jobs."""
        self._failures.append((substring, code, title, detail))

    def clear_failures(self) -> None:
        """Undo every `fail_matching`."""
        self._failures.clear()

    def _known(self, id: str) -> Job:
        self.settle()
        return self._jobs[id]

    # ── processing ───────────────────────────────────────────────────────────────────────────────

    def _complete(self, job: Job, at: float) -> None:
        memory, nulls = self._memory, 0
        joined = [self._lists.get(id) for id in job.lists]
        for index, given in enumerate(job.people):
            if index in job.dropped:
                continue
            found = memory.find(given)
            error = self._failure(index, given, found is None and given.id is not None)
            if error is None:
                clash = memory.clash(given, found)
                if clash is not None:
                    detail = f"The {clash[0]} belongs to profile {clash[1].id}."
                    error = ("duplicate_profile", "Conflict.", detail)
            if error is not None:
                job.errors.append(Failure(index, *error, payload_of(given)))
                continue
            profile = found or memory.create(at)
            memory.update(profile, given, at, nulls=False, patch=self._patch)
            nulls += _nulls(given)
            if given.meta and not self._patch:
                self.ignored["patch"] += 1
            job.profiles.append(profile.number)
            for members in joined:
                if members is not None:
                    members.join(profile, at)
        if nulls:
            self.ignored["null"] += nulls
        job.started = job.begins
        self._end(job, at)

    def _failure(
        self, index: int, given: ProfileIn, unknown_id: bool
    ) -> tuple[str, str, str] | None:
        if self._failures:
            raw = orjson.dumps(payload_of(given)).decode()
            for substring, code, title, detail in self._failures:
                if substring in raw:
                    return code, title, detail
        if unknown_id:
            return "not_found", "Not found.", f"A profile with id {given.id} does not exist."
        return None

    def _end(self, job: Job, at: float) -> None:
        job.result = at
        job.people = []
        self._ledger.release(job.identifiers)
        job.identifiers = set()
        del self._open[job.id]

    def _expire(self, job: Job) -> None:
        if job.open:
            job.cancelled = True
            self._end(job, self._now())
        job.expired = True
        job.errors = []
        job.profiles = array("I")

    # ── queries ──────────────────────────────────────────────────────────────────────────────────

    def count_jobs_of(self, given: ProfileIn) -> int:
        """The number of open jobs that contain this person."""
        self.settle()
        seen = identifiers_of(given, self._memory.find(given))
        return sum(not job.identifiers.isdisjoint(seen) for job in self._open.values())


def payload_of(given: ProfileIn) -> dict[str, Any]:
    """A profile as it was sent."""
    payload: dict[str, Any] = {"type": "profile", "attributes": given.attributes}
    if given.id is not None:
        payload["id"] = given.id
    if given.meta:
        payload["meta"] = given.meta
    return payload


def pointer_of(error: Failure) -> str:
    """The pointer to the profile in the request."""
    return f"{PROFILES}/{error.index}"


def _nulls(given: ProfileIn) -> int:
    count = 0
    for value in given.attributes.values():
        if value is None:
            count += 1
        elif isinstance(value, dict) and None in value.values():
            count += sum(inner is None for inner in value.values())
    return count


def _id(account: str, number: int, at: float) -> str:
    """An opaque id in the format recorded live: base64 of account, number and time."""
    raw = f"{account}_maintenance.{number:06d}.{int(at)}.sandbox".encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
