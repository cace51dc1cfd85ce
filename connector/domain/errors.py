"""The errors of this program, grouped by how the caller reacts.

    ConnectorError
    ├── ConfigError         the configuration is invalid; lists every fault at once
    ├── StoreError          the store cannot be used (schema, lease, disk)
    │   └── StoreOutage     by no one, for nothing
    │       ├── StoreLocked until another program gives up its file's lock
    │       └── StoreInUse  until processes of older versions have ended
    ├── Malformed           a caller sent something that cannot be parsed: answer 400
    ├── Unauthorised        a caller is not authenticated: answer 401
    └── DeliveryError       a request to a remote API did not succeed
        ├── RetryLater      certainly not applied: retry, not before `after` seconds
        ├── AmbiguousError  may have been applied: look it up, or repeat only what is idempotent
        ├── Rejected        this record will never be accepted as it is: dead letter
        └── Blocked         nothing of this scope can be delivered: hold the target, lane or account

Every problem that a person may meet has one code in `Problem`. The same code is used in the log, in
`connector status`, in the `cause` label of metrics, in alerts and as a page in `docs/problems/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Literal

from connector.domain.remedies import ADVICE, WAITS_FOR_REMOTE, at_command_line

Scope = Literal["target", "lane", "account"]


class Problem(StrEnum):
    """A problem code. The value is the code. In one line each: `meaning` says what happened,
    `effect` what it affects, `remedy` what a person does about it at the command line. `advice` is
    the remedy with its slots, see connector.domain.remedies."""

    meaning: str
    effect: str
    remedy: str
    advice: str

    def __new__(cls, code: str, meaning: str) -> Problem:
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        member.effect, member.advice = ADVICE[code]
        member.remedy = at_command_line(member.advice)
        return member

    @property
    def waits_for_remote(self) -> bool:
        """Whether the remote side is away or slow and the connector retries by itself: a matter
        for a person only when it takes long."""
        return self.value in WAITS_FOR_REMOTE

    @classmethod
    def from_code(cls, code: str) -> Problem:
        """The problem with a stored code. Raises ValueError for a code unknown to this version."""
        for member in cls:
            if member.value == code:
                return member
        raise ValueError(f"no problem has the code {code}")

    CONFIG_FAULTY = "C10", "the configuration is invalid"
    MAPPING_FAULTY = "C20", "a mapping file is invalid"
    RELOAD_REFUSED = "C30", "a changed configuration was rejected; the previous one stays in effect"
    PLUGIN_BROKEN = "C40", "an installed package fails, so its connections are stopped"

    STORE_UNAVAILABLE = "S10", "the store is unavailable"
    DISK_LOW = "S20", "free disk space is below [store] min_free"
    STORE_SCHEMA = "S30", "the store's schema does not match this version"
    STORE_HELD = "S40", "another process holds the store's lease"
    STORE_DAMAGED = "S50", "the store failed its integrity check"
    STORE_REFUSED = "S60", "the database permanently rejects a value"
    STORE_REPLACED = "S70", "the store's file was deleted, moved or replaced"
    ENCRYPTION_KEY = "S80", "a stored secret cannot be decrypted with [security] encryption_key"

    WEBHOOK_MALFORMED = "W400", "a webhook could not be parsed"
    WEBHOOK_UNSIGNED = "W401", "a webhook's signature or secret is missing or wrong"
    WEBHOOK_TOO_LARGE = "W413", "a webhook is larger than 1 MiB"

    ACTION_UNCERTAIN = "A10", "it is unknown whether the platform applied an action"
    ACTION_PERSON_CAP = "A20", "a person has more adjustments in 24 hours than the cap allows"
    ACTION_TOTAL_CAP = "A30", "the adjustments of 24 hours come to more points than the cap allows"
    ACTION_PERSON = "A40", "the person of an action was not found"
    ACTION_UNKNOWN_PERSON = "A50", "the platform does not know the person of an action"
    ACTION_NOT_FOR_PERSON = "A60", "the platform refused an action because of its person"
    FLOW_MALFORMED = "A400", "a flow call could not be parsed"
    FLOW_SECRET = "A401", "a flow call's secret is missing or wrong"
    FLOW_CONFLICT = "A409", "a flow call reuses an idempotency key with different content"
    FLOW_THROTTLED = "A429", "too many flow calls with a wrong secret from one address"

    NO_IDENTITY = "I10", "the person has no identifier that Klaviyo accepts"
    BAD_ADDRESS = "I20", "the person's e-mail address is not valid"
    SHARED_ADDRESS = "I30", "another person, active more recently, has the same e-mail address"
    MAPPING_FAILED = "M10", "the mapping could not render this record"
    UNKNOWN_EVENT = "M20", "the mapping has no entry for this event name"

    TOO_MANY_PROPERTIES = "E10", "the event has more than 300 properties"
    STRING_TOO_LONG = "E11", "a string is larger than 100 KB"
    ARRAY_TOO_LONG = "E12", "an array has more than 4,000 items"
    NESTED_TOO_DEEP = "E13", "values are nested more than 10 levels deep"
    TIME_OUT_OF_RANGE = "E14", "the event's time is before 2000 or more than a year in the future"
    RECORD_TOO_LARGE = "E15", "the record is larger than one request may be"
    METRIC_NAME = "E16", "the metric name is empty or has 128 characters or more"
    UNIQUE_ID = "E17", "the unique id is empty or longer than 255 characters"

    KLAVIYO_REDIRECT = "K300", "Klaviyo answered with a redirect, which is not followed"
    KLAVIYO_REFUSED = "K400", "Klaviyo rejected the record as invalid"
    KLAVIYO_KEY = "K401", "Klaviyo rejected the key"
    KLAVIYO_SCOPE = "K403", "the key is not allowed to do this at Klaviyo (missing scope)"
    KLAVIYO_TARGET = "K404", "the target does not exist at Klaviyo"
    KLAVIYO_CONFLICT = "K409", "Klaviyo reports a conflict that could not be resolved"
    KLAVIYO_REVISION = "K410", "Klaviyo has retired the configured API revision"
    KLAVIYO_TOO_LARGE = "K413", "Klaviyo rejected the request as too large"
    KLAVIYO_THROTTLED = "K429", "Klaviyo is rate limiting the connector"
    KLAVIYO_UNAVAILABLE = "K503", "Klaviyo is unavailable"
    KLAVIYO_ACCOUNT = "K600", "the key belongs to a different Klaviyo account than before"
    KLAVIYO_ACCESS_ENDED = "K610", "Klaviyo has ended the app's access to the account"
    KLAVIYO_NOT_CONNECTED = "K620", "no Klaviyo account is connected to the app yet"
    KLAVIYO_ACCESS_ENDING = "K630", "the app's access to Klaviyo ends soon, because it is not used"

    PLATFORM_REFUSED = "P400", "the platform rejected the record as invalid"
    PLATFORM_KEY = "P401", "the platform rejected the credentials"
    PLATFORM_SCOPE = "P403", "the credentials are not allowed to do this at the platform"
    PLATFORM_TARGET = "P404", "the target does not exist at the platform"
    PLATFORM_THROTTLED = "P429", "the platform is rate limiting the connector"
    PLATFORM_UNAVAILABLE = "P503", "the platform is unavailable"

    WRONG_PROGRAM = "P410", "most people who were read before are now unknown to the platform"

    JOB_CANCELLED = "J10", "Klaviyo cancelled an import job"
    JOB_STUCK = "J20", "an import job has been unfinished for more than an hour"
    JOB_LOST = "J30", "an import job was lost: it is gone, or its id was never received"
    IMPORT_REFUSED = "J40", "Klaviyo's import job rejected the profile"

    NAME_NOT_RESOLVED = "N10", "the host name could not be resolved"
    NOT_CONNECTED = "N20", "the connection could not be established"
    TIMED_OUT = "N30", "no response in time; the request may have been applied"
    CONNECTION_LOST = (
        "N40",
        "the connection broke after the request was sent; it may have been applied",
    )
    ANSWER_UNREADABLE = "N50", "the response could not be read; the request may have been applied"
    SERVER_FAULT = (
        "N60",
        "the remote side returned a server error; the request may have been applied",
    )
    INTERRUPTED = "N70", "the process stopped after the request may have been sent"
    CHALLENGED = "N80", "a gateway answered 403 with a page instead of JSON"
    TLS_REQUIRED = "N90", "the address is not https and its host is not in [security] allow_http"

    WORKER_DOWN = "R10", "a worker keeps failing"

    BACKFILL_FILE = "B10", "a backfill's file cannot be used, or has changed since the start"
    BACKFILL_REJECTED = "B20", "a person rejected a backfill"
    BACKFILL_BLOCKED = "B30", "a backfill's source cannot be read"

    HIGH_DEAD_RATE = (
        "L10",
        "more than half of the last 100 records failed for one cause, so the lane is held",
    )
    RETRIES_EXHAUSTED = "L20", "the record was retried for [delivery] retry_horizon without success"
    TOO_MANY_REMOVALS = "L30", "a sync would remove too many people, so it waits for approval"
    FIRST_SYNC = "L31", "the first sync waits for approval"
    REMOVED_BY_HAND = "L32", "members were removed from the list at Klaviyo by hand"
    GROUP_NOT_FOUND = "L33", "no audience, list or segment has this id or name"
    GROUP_AMBIGUOUS = (
        "L34",
        "several audiences, lists or segments have this name, so the id is required",
    )
    NOT_OFFERED = "L35", "the platform does not offer this"
    SEGMENT_PROCESSING = "L36", "Klaviyo is still computing the segment's members"
    MASS_UNSET = "L37", "removing a field from many people waits for approval"
    PAUSED = "L40", "paused by a person"
    NOT_LIVE = "L41", "the module is off or the connection is in shadow mode, so the record waits"


THROTTLED: Final = frozenset({Problem.KLAVIYO_THROTTLED, Problem.PLATFORM_THROTTLED})
"""The remote side decides when it takes requests again."""

MAY_BE_APPLIED: Final = frozenset(
    {
        Problem.TIMED_OUT,
        Problem.CONNECTION_LOST,
        Problem.ANSWER_UNREADABLE,
        Problem.SERVER_FAULT,
    }
)
"""The request may have had its effect, or still have it."""


class ConnectorError(Exception):
    """Base of all errors of this program.

    `problem` is the code to look up. `detail` says what was found and what to do; it never contains
    a secret or personal data.
    """

    def __init__(self, problem: Problem, detail: str = "") -> None:
        self.problem = problem
        self.detail = detail or problem.meaning
        super().__init__(f"{problem}: {self.detail}")


class ConfigError(ConnectorError):
    """The configuration or a mapping is invalid. `faults` has one line per fault."""

    def __init__(self, faults: Sequence[str], problem: Problem = Problem.CONFIG_FAULTY) -> None:
        self.faults = tuple(faults)
        super().__init__(problem, "\n".join(self.faults))

    @classmethod
    def of_all(cls, errors: Sequence[ConfigError]) -> ConfigError:
        """Their faults, each once, with the problem of the first."""
        faults = dict.fromkeys(fault for error in errors for fault in error.faults)
        return cls(list(faults), errors[0].problem)


class StoreError(ConnectorError):
    """The store cannot carry out an operation. Nothing was changed."""


class StoreOutage(StoreError):
    """The store can carry out no operation now, whichever it is: repeating parts is useless."""


class StoreLocked(StoreOutage):
    """Another program holds the write lock of the store's file."""


class StoreInUse(StoreOutage):
    """Processes of older versions work on the store, and a migration would break them."""


class Malformed(ConnectorError):
    """A request that came in cannot be parsed. Nothing of it was stored."""


class Unauthorised(ConnectorError):
    """A caller's signature or secret is missing or wrong. Its body was not parsed."""


class DeliveryError(ConnectorError):
    """A request to a remote API did not succeed. `status`: the HTTP status, if one was received."""

    def __init__(self, problem: Problem, detail: str = "", *, status: int | None = None) -> None:
        super().__init__(problem, detail)
        self.status = status


class RetryLater(DeliveryError):
    """Certainly not applied. Retry, `after` seconds from now at the earliest."""

    def __init__(
        self, problem: Problem, detail: str = "", *, status: int | None = None, after: float = 0.0
    ) -> None:
        super().__init__(problem, detail, status=status)
        self.after = after


class AmbiguousError(DeliveryError):
    """Bytes may have been sent and no readable response was received: it may have been applied."""


class Rejected(DeliveryError):
    """The remote API will not accept this record as it is.

    `pointers`: (JSON pointer, code and title) of each error in the response, in its order.
    `meta`: the `meta` object of the first error (Klaviyo: `duplicate_profile_id`).
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
    """Nothing of `scope` can be delivered until a person or the remote side changes something."""

    def __init__(
        self, problem: Problem, detail: str = "", *, scope: Scope, status: int | None = None
    ) -> None:
        super().__init__(problem, detail, status=status)
        self.scope: Scope = scope


class GuaranteeError(Exception):
    """The program was about to break one of its guarantees: a defect of ours, found before anything
    was sent."""
