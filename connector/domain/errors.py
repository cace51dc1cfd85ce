"""What can go wrong, grouped by what to do next.

    ConnectorError
    ├── ConfigError        a person must mend a file; lists every fault at once
    ├── StoreError         the store cannot be used (schema, lease, disk)
    ├── Malformed          the caller sent something unreadable: refuse it, tell the caller
    ├── Unauthorised       the caller did not prove who it is
    └── DeliveryError      a request to a platform did not succeed
        ├── Wait           it was certainly not applied: try again, not before `after` seconds
        ├── Unknown        it may have been applied: look it up, or repeat only what may be
        ├── Rejected       this record will never be taken as it is: dead letter
        └── Blocked        nothing of this scope can be delivered: hold the target, lane or account

Every problem that a person may meet has one code in `Problem`. The same code stands in the log, in
status, in the `cause` label of a metric, in an alert and as a page in `docs/problems/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

Scope = Literal["target", "lane", "account"]


class Problem(StrEnum):
    """A problem code. The value is the code; `meaning` says it in one line."""

    meaning: str

    def __new__(cls, code: str, meaning: str) -> Problem:
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    @classmethod
    def from_code(cls, code: str) -> Problem:
        """The problem of a stored code. Raises ValueError for a code this version does not know."""
        for member in cls:
            if member.value == code:
                return member
        raise ValueError(f"no problem has the code {code}")

    CONFIG_FAULTY = "C10", "the configuration has faults"
    MAPPING_FAULTY = "C20", "a mapping file has faults"
    RELOAD_REFUSED = "C30", "an edited configuration was not taken"
    PLUGIN_BROKEN = "C40", "an installed package fails, so its connections stand still"

    STORE_UNAVAILABLE = "S10", "the store does not answer"
    DISK_LOW = "S20", "free disk space is below [store] min_free"
    STORE_SCHEMA = "S30", "the store's schema is not the one this version needs"
    STORE_HELD = "S40", "another process holds the store"
    STORE_DAMAGED = "S50", "the store failed its integrity check"
    STORE_REFUSED = "S60", "the database refuses for good what is to be written"

    WEBHOOK_MALFORMED = "W400", "a webhook could not be read"
    WEBHOOK_UNSIGNED = "W401", "a webhook's signature or secret is missing or wrong"
    WEBHOOK_TOO_LARGE = "W413", "a webhook is larger than 1 MiB"

    ACTION_UNCERTAIN = "A10", "nobody knows whether the platform applied an action"
    ACTION_PERSON_CAP = "A20", "more adjustments for a person than a day may hold"
    ACTION_TOTAL_CAP = "A30", "more points than a day may hold"
    ACTION_PERSON = "A40", "the person of an action is not known"
    FLOW_MALFORMED = "A400", "a flow's call could not be read"
    FLOW_SECRET = "A401", "a flow's call has no secret or a wrong one"
    FLOW_CONFLICT = "A409", "a flow's call repeats a key with other content"
    FLOW_THROTTLED = "A429", "too many calls with a wrong secret from one address"

    NO_IDENTITY = "I10", "the person has no address that Klaviyo can be told"
    BAD_ADDRESS = "I20", "the person's address is not a valid e-mail address"
    SHARED_ADDRESS = "I30", "another person, active later, has the same address"
    MAPPING_FAILED = "M10", "the mapping could not render this record"
    UNKNOWN_EVENT = "M20", "the mapping sends unknown event names to the dead letters"

    TOO_MANY_PROPERTIES = "E10", "more than 300 properties"
    STRING_TOO_LONG = "E11", "a string is larger than 100 KB"
    ARRAY_TOO_LONG = "E12", "an array has more than 4,000 items"
    NESTED_TOO_DEEP = "E13", "values are nested more than 10 levels deep"
    TIME_OUT_OF_RANGE = "E14", "the event's time is before 2000 or more than a year ahead"
    RECORD_TOO_LARGE = "E15", "the record alone is larger than one request may be"
    METRIC_NAME = "E16", "the metric's name is empty or has 128 characters or more"
    UNIQUE_ID = "E17", "the unique id is empty or longer than 255 characters"

    KLAVIYO_REFUSED = "K400", "Klaviyo refused the record as invalid"
    KLAVIYO_KEY = "K401", "Klaviyo refused the key"
    KLAVIYO_SCOPE = "K403", "the key may not do this at Klaviyo (scope missing)"
    KLAVIYO_TARGET = "K404", "Klaviyo does not know the target any more"
    KLAVIYO_CONFLICT = "K409", "Klaviyo reports a conflict that could not be resolved"
    KLAVIYO_REVISION = "K410", "Klaviyo has retired the configured revision"
    KLAVIYO_TOO_LARGE = "K413", "Klaviyo refused the request as too large"
    KLAVIYO_THROTTLED = "K429", "Klaviyo asked us to slow down"
    KLAVIYO_UNAVAILABLE = "K503", "Klaviyo is unavailable"
    KLAVIYO_ACCOUNT = "K600", "the key belongs to another Klaviyo account than before"

    PLATFORM_REFUSED = "P400", "the platform refused the record as invalid"
    PLATFORM_KEY = "P401", "the platform refused the credential"
    PLATFORM_SCOPE = "P403", "the credential may not do this at the platform"
    PLATFORM_TARGET = "P404", "the platform does not know the target"
    PLATFORM_THROTTLED = "P429", "the platform asked us to slow down"
    PLATFORM_UNAVAILABLE = "P503", "the platform is unavailable"

    WRONG_PROGRAM = "P410", "most people read before are unknown now: another program's key?"

    JOB_CANCELLED = "J10", "Klaviyo cancelled an import job"
    JOB_STUCK = "J20", "an import job has not ended for an hour"
    JOB_LOST = "J30", "an import job is gone, or its id never reached us"
    IMPORT_REFUSED = "J40", "Klaviyo's import job refused the profile"

    NAME_NOT_RESOLVED = "N10", "the host's name could not be resolved"
    NOT_CONNECTED = "N20", "no connection could be made"
    TIMED_OUT = "N30", "no answer in time; it may have been applied"
    CONNECTION_LOST = "N40", "the connection broke after the request left; it may have been applied"
    ANSWER_UNREADABLE = "N50", "the answer could not be read; it may have been applied"
    SERVER_FAULT = "N60", "the far end failed inside; it may have been applied"
    INTERRUPTED = "N70", "this process stopped after the request may have left"
    CHALLENGED = "N80", "a gateway before the far end answered 403 with a page instead of JSON"
    TLS_REQUIRED = "N90", "the address is not TLS and its host is not allowed without"

    WORKER_DOWN = "R10", "a worker keeps failing"

    BACKFILL_FILE = "B10", "a backfill's file cannot be used, or has changed since it began"
    BACKFILL_REJECTED = "B20", "a person said no to a backfill"
    BACKFILL_BLOCKED = "B30", "a backfill's source refuses to be read"

    HIGH_DEAD_RATE = (
        "L10",
        "more than half of the last records died of one cause, so the lane is held",
    )
    RETRIES_EXHAUSTED = "L20", "the record was retried for [delivery] retry_horizon without success"
    TOO_MANY_REMOVALS = "L30", "a sync would take too many people off, so it waits for a person"
    FIRST_SYNC = "L31", "nothing is told before a person has agreed to the first sync"
    REMOVED_BY_HAND = "L32", "somebody took a member off the list at Klaviyo"
    GROUP_NOT_FOUND = "L33", "no audience, list or segment has this id or name"
    GROUP_AMBIGUOUS = "L34", "more than one has this name, so the id is needed"
    NOT_OFFERED = "L35", "the platform does not offer this"
    PAUSED = "L40", "paused by a person"


class ConnectorError(Exception):
    """Root of all errors of this program.

    `problem` is the code to look up, `detail` says what was found and what to do, and never holds
    a secret or personal data.
    """

    def __init__(self, problem: Problem, detail: str = "") -> None:
        self.problem = problem
        self.detail = detail or problem.meaning
        super().__init__(f"{problem}: {self.detail}")


class ConfigError(ConnectorError):
    """The configuration or a mapping cannot be used. `faults` holds one line per fault."""

    def __init__(self, faults: Sequence[str], problem: Problem = Problem.CONFIG_FAULTY) -> None:
        self.faults = tuple(faults)
        super().__init__(problem, "\n".join(self.faults))


class StoreError(ConnectorError):
    """The store cannot do what was asked; nothing was changed."""


class Malformed(ConnectorError):
    """What a caller sent cannot be read. Nothing of it was stored."""


class Unauthorised(ConnectorError):
    """A caller's signature or secret is missing or wrong. Nothing of it was read further."""


class DeliveryError(ConnectorError):
    """A request to a platform did not succeed. `status` is the HTTP status, if one came."""

    def __init__(self, problem: Problem, detail: str = "", *, status: int | None = None) -> None:
        super().__init__(problem, detail)
        self.status = status


class RetryLater(DeliveryError):
    """Certainly not applied. Try again, `after` seconds from now at the earliest."""

    def __init__(
        self, problem: Problem, detail: str = "", *, status: int | None = None, after: float = 0.0
    ) -> None:
        super().__init__(problem, detail, status=status)
        self.after = after


class AmbiguousError(DeliveryError):
    """Bytes may have left and no readable answer came: it may have been applied."""


class Rejected(DeliveryError):
    """The far end will not take this as it is.

    `pointers` holds the JSON pointers that the answer named, in its order; `meta` the answer's own
    extra facts of the first error (Klaviyo: `duplicate_profile_id`).
    """

    def __init__(
        self,
        problem: Problem,
        detail: str = "",
        *,
        status: int | None = None,
        pointers: Sequence[tuple[str, str]] = (),
        meta: dict[str, object] | None = None,
    ) -> None:
        super().__init__(problem, detail, status=status)
        self.pointers = tuple(pointers)
        self.meta = meta or {}


class Blocked(DeliveryError):
    """Nothing of `scope` can be delivered until something outside changes."""

    def __init__(
        self, problem: Problem, detail: str = "", *, scope: Scope, status: int | None = None
    ) -> None:
        super().__init__(problem, detail, status=status)
        self.scope: Scope = scope


class GuaranteeError(Exception):
    """The program was about to break one of its guarantees: a defect of ours, found before anything
    was sent."""
