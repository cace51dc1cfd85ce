"""The status as one document: `connector status --json` and `GET /api/v1/status`.

Times are in ms since 1970 UTC, ages and durations in seconds. The schema is in docs/json.md.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PATH = "/api/v1/status"
STORE_HEADER = "x-connector-store"
"""Of an answer: connector.config.Store.identity, so that a command knows whose status it is."""
Level = Literal["ok", "degraded", "attention", "stopped"]
LaneStateName = Literal["running", "degraded", "paused", "held", "blocked", "stopped"]


_IN_CONSOLE = "What to do in the console; a page is written `[label](path)`."


class View(BaseModel):
    """Part of a document that people and scripts read. Fields are added, never renamed."""

    # A start has no use for it yet.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Verdict(View):
    """The whole status in one line."""

    level: Level = Field(
        description="`ok`; `degraded`: a remote side is away and the connector retries; "
        "`attention`: something needs a person; `stopped`: no process runs."
    )
    text: str


class Replica(View):
    account: str = Field(
        description="Klaviyo account whose lease it is. `store`: everything on SQLite, else what "
        "concerns no account."
    )
    holder: str = Field(description="Host, process id and a distinguishing part.")


class Attention(View):
    """Something that needs a person, or, under `degraded`, will if it lasts."""

    key: str = Field(description="The same while the problem is the same.")
    text: str = Field(description="What happened and what it affects.")
    code: str | None = Field(description="Problem code, see `connector problem CODE`.")
    remedy: str = Field(description="What to do, with commands.")
    in_console: str = Field(description=_IN_CONSOLE)
    connection: str = Field(description="The connection that it is about; empty for all.")
    since: int | None = Field(description="Since when, where it is known.")
    retry_in: float | None = Field(description="Seconds until the next attempt, where known.")


class LaneStatus(View):
    """One lane of a connection."""

    lane: str = Field(description="As people read it: `events → klaviyo`.")
    destination: str
    kind: str
    state: LaneStateName = Field(
        description="`degraded`: it runs, and the remote side is away. `stopped`: no process runs."
    )
    problem: str | None = Field(description="Code of why it does not run as it should.")
    reason: str = Field(description="The same in words; empty while it runs.")
    remedy: str = Field(description="What to do, with commands; empty while it runs.")
    in_console: str = Field(description=_IN_CONSOLE)
    since: int | None = Field(description="Since when it is in this state, where it is known.")
    retry_in: float | None = Field(description="Seconds until the next attempt, where known.")
    ready: int = Field(description="Entries that wait to be sent.")
    in_flight: int
    held: int = Field(description="Entries that wait for something to be known or decided.")
    dead: int = Field(description="Entries that were refused for good.")
    oldest_seconds: float | None = Field(description="Age of the oldest entry that waits.")
    per_second: float = Field(description="Entries that reached an end, mean of the last minute.")
    eta_seconds: float | None = Field(
        description="Until all that waits is done at this rate; null where nothing moves."
    )
    last_delivered: int | None = Field(description="Time of the last success.")


class Link(View):
    """An audience that is kept as a list, or a segment that is kept at the platform."""

    connection: str
    kind: Literal["audience", "segment"]
    source: str
    target: str
    target_id: str | None
    members: int | None = Field(description="Found by the last complete scan of the source.")
    without_address: int
    scanning: bool
    last_full_sync: int | None
    full_sync_age: float | None
    took: float | None = Field(description="Duration of the last complete scan.")
    read_back_age: float | None = Field(description="Age of the last complete read of the target.")
    open: bool = Field(description="Whether the target may be written.")
    here: int = Field(description="People who should be on the target.")
    there: int = Field(description="People who are, as far as known.")
    both: int
    waiting: int
    unconfirmed: int
    removed_by_hand: int
    foreign: int
    problem: str | None
    meaning: str | None
    detail: str


class LinkNotRun(View):
    """A link that is configured and has not run."""

    connection: str
    kind: Literal["audience", "segment"]
    source: str
    target: str
    detail: str = Field(description="Why.")


class StreamStatus(View):
    stream: str
    checkpoint_age: float


class ActionsStatus(View):
    """Points and pushes that flows requested."""

    waiting: int
    uncertain: int = Field(description="It is unknown whether the platform applied them.")
    held: int
    per_second: float
    eta_seconds: float | None


class PeopleStatus(View):
    """Null where people were not counted yet; 10,000 and more are counted every five minutes."""

    synced: int | None = Field(
        description="Their profile at Klaviyo is as wanted, and they do not wait to be read."
    )
    to_read: int = Field(description="Wait to be read at the platform.")
    to_write: int = Field(description="Wait to be written to Klaviyo.")
    without_email: int | None
    invalid: int = Field(description="Their e-mail address is not valid.")
    gone: int | None = Field(description="The platform no longer knows them.")
    skipped: dict[str, int] = Field(description="Not written, by problem code.")
    other_mapping: int = Field(description="Rendered with another version of the mapping.")


class QuotaStatus(View):
    """Requests of the last minute to one endpoint, by all connections of the account together."""

    account: str = Field(description="A short hash.")
    endpoint: str
    used: int
    allowed: int = Field(description="The connector's share of the limit.")
    text: str = Field(description="In words: `Klaviyo events: 12 of 2,100 this minute`.")


class Throughput(View):
    """Entries that reached an end at Klaviyo in each of the last 120 minutes, the oldest first; the
    last minute is not over yet."""

    events: list[int]
    profiles: list[int]


class Refusal(View):
    """The newest call of one kind that was refused."""

    cause: str = Field(description="As in `connector_webhooks_rejected_total`.")
    problem: str | None
    at: int
    count: int
    in_a_row: int = Field(description="Since the last accepted call of the same kind.")


class ConnectionStatus(View):
    title: str = Field(description="The platform's name.")
    source: str
    mode: str = Field(description="`live`, or `shadow`: everything but sending.")
    enabled: bool
    modules: list[str]
    lanes: list[LaneStatus]
    audiences: list[Link]
    segments: list[Link]
    streams: list[StreamStatus]
    skipped: dict[str, int] = Field(description="Records that a rule excludes, by rule.")
    unattached: int = Field(
        description="Events that were sent without their person's fresh fields, because the read "
        "came too late or failed."
    )
    actions: ActionsStatus | None
    people: PeopleStatus | None
    quota: list[QuotaStatus]
    throughput: Throughput
    last_received: int | None
    received: dict[str, int] = Field(description="Time of the last record, by how it arrived.")
    last_refusal: Refusal | None
    refusals: list[Refusal] = Field(description="By cause, the newest first.")
    last_delivered: int | None


class DeadLetters(View):
    """What is held or died in one lane with one cause: records, and profiles, reads and memberships
    of people."""

    connection: str
    kind: str
    lane: str = Field(description="As in `lanes`.")
    state: str = Field(description="`held` or `dead`.")
    problem: str
    meaning: str
    remedy: str
    in_console: str = Field(description=_IN_CONSOLE)
    count: int


class DeadLetterView(View):
    """A held or dead record."""

    id: int
    connection: str
    destination: str
    kind: str
    state: str = Field(description="`held` or `dead`.")
    name: str
    unique_id: str
    problem: str
    detail: str
    attempts: int
    received_at: int
    settled_at: int | None


class StuckPersonView(View):
    """A person's profile, read or membership that is held or died."""

    connection: str
    lane: str = Field(description="As in the status.")
    state: str = Field(description="`held` or `dead`.")
    problem: str
    meaning: str
    detail: str
    since: int = Field(description="When what waits came to be, in ms since 1970.")
    platform_id: str | None
    email: str | None
    target: str = Field(description="The list or tag of a membership.")


class WebhookSheet(View):
    """What to paste into a Klaviyo flow, and a curl command that makes the same call."""

    url: str
    headers: dict[str, str]
    body: str
    curl: str
    notes: list[str]


class ApprovalStatus(View):
    """A change that waits for a person's decision."""

    id: int
    connection: str
    what: str
    subject: str
    detail: dict[str, Any]
    since: int


class BackfillStatus(View):
    """A backfill or dry run. Its people, or past events, are counted by where they ended."""

    id: int
    connection: str
    source: str
    what: str | None
    dry_run: bool
    existing_only: bool
    force: bool
    events: bool
    state: str
    progressing: bool = Field(description="Whether a process works on it now.")
    rows: int
    total: int | None
    done: int
    to_read: int
    to_write: int
    per_second: float | None = Field(description="Since it began; null unless it progresses.")
    eta_seconds: float | None
    people: dict[str, int] = Field(description="By outcome; rows without a usable address too.")
    past_events: dict[str, int]
    duplicates: int = Field(description="Rows that name a person of an earlier row.")
    not_at_klaviyo: int
    notes: list[str]
    started_at: int
    ended_at: int | None
    problem: str | None
    detail: str


class Status(View):
    """Everything at one look."""

    version: str = Field(description="Of the process that runs, or ran last.")
    at: int = Field(description="When this document was made.")
    verdict: Verdict
    running: bool
    stopped_since: int | None = Field(description="When no process runs: when the last one ended.")
    holder: str | None
    replicas: list[Replica]
    public_url: str
    reachable: bool = Field(description="Whether `public_url` can be reached from elsewhere.")
    attention: list[Attention]
    degraded: list[Attention]
    connections: dict[str, ConnectionStatus]
    dead_letters: list[DeadLetters]
    approvals: list[ApprovalStatus]
    backfills: list[BackfillStatus] = Field(description="Those that have not ended.")
