"""All metrics, declared once, on a separate registry per app (docs/metrics.md).

Label values are closed lists: kinds, outcomes, problem codes, route templates, connection names.
No address, id or free text is ever a label. Ages are computed at scrape time.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneMode, Millis
from connector.domain.memberships import Group
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Delivery,
    Gone,
    Held,
    Observed,
    Outcome,
    Retry,
    Skipped,
)
from connector.domain.records import Appended, Entry, State
from connector.ports import Approval, Backlog, StuckGroup
from connector.runtime.activity import Activity
from connector.runtime.changes import Topic
from connector.runtime.metric_registry import MetricRegistry

LATENCY_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400)
_REJECT_REASONS = (
    "conflict",
    "disabled",
    "flow_secret",
    "malformed",
    "not_stored",
    "signature",
    "throttled",
    "too_large",
)
_OUTCOME_LABELS: Mapping[type[Outcome], str] = {
    Accepted: "accepted",
    Observed: "accepted",
    Gone: "unchanged",
    Skipped: "skipped",
    Held: "held",
    Dead: "dead",
}
"""What `outcome` says of those that end a record's way."""
_MODES: tuple[LaneMode, ...] = ("running", "paused", "held", "blocked")


def account_label(account: str) -> str:
    """A short hash of an account id: metrics do not identify accounts."""
    return hashlib.sha256(account.encode()).hexdigest()[:8]


def _lease_label(resource: str) -> str:
    return resource if resource == "store" else account_label(resource)


class Metrics(MetricRegistry):
    """The metrics of one app. `activity` keeps what a status needs and no metric can answer."""

    def __init__(self, version: str) -> None:
        self.on_change: Callable[[Topic], None] = lambda topic: None
        """Called with what a count says has changed."""
        super().__init__()
        self.activity = Activity()
        self.worker_restarts = self.counter(
            "worker_restarts", "Passes of a worker's loop that failed and were retried.", "worker"
        )
        self.received = self.counter(
            "records_received",
            "Records received, including duplicates.",
            "connection",
            "kind",
            "via",
        )
        self.duplicates = self.counter(
            "records_duplicate",
            "Received records whose id was already known.",
            "connection",
            "kind",
        )
        self.unattached = self.counter(
            "events_unattached",
            "Events that were accepted without their person's fresh fields.",
            "connection",
        )
        self.skipped = self.counter(
            "records_skipped",
            "Records that a rule excludes from delivery, by rule.",
            "connection",
            "reason",
        )
        self.rejected = self.counter(
            "webhooks_rejected",
            "Webhooks and flow calls rejected, by reason.",
            "connection",
            "reason",
        )
        self.deliveries = self.counter(
            "deliveries",
            "Settled records, by outcome.",
            "connection",
            "destination",
            "kind",
            "outcome",
        )
        self.retries = self.counter(
            "retries",
            "Failed attempts that will be retried, by problem code.",
            "connection",
            "destination",
            "reason",
        )
        self.latency = self.histogram(
            "delivery_latency_seconds",
            "Time from receipt to acceptance by the destination.",
            "connection",
            "kind",
            buckets=LATENCY_BUCKETS,
        )
        self.outbox = self.gauge(
            "outbox_records", "Records in the store, by state.", "connection", "kind", "state"
        )
        self.oldest = self.gauge(
            "outbox_oldest_seconds",
            "Age of the oldest record that waits for delivery; 0 if none.",
            "connection",
            "kind",
        )
        self.dead = self.gauge(
            "dead_letters",
            "Entries of all lanes that died, by problem code.",
            "connection",
            "cause",
        )
        self.backfill = self.gauge(
            "backfill_progress_ratio",
            "Progress of the running backfill from 0 to 1; 1 if none runs.",
            "connection",
        )
        self.actions = self.counter(
            "actions",
            "Adjustments and pushes that were settled or held, by outcome.",
            "connection",
            "action",
            "outcome",
        )
        self.uncertain = self.gauge(
            "actions_uncertain",
            "Actions with an ambiguous outcome.",
            "connection",
        )
        self.approvals = self.gauge(
            "approvals_pending", "Changes that wait for approval.", "connection", "what"
        )
        self.drift = self.gauge(
            "reconcile_drift",
            "Differences at Klaviyo that the last reconcile found.",
            "connection",
            "kind",
        )
        self.people = self.gauge("people", "People, by state.", "connection", "state")
        self.members = self.gauge(
            "audience_members",
            "Members of an audience in its last full scan.",
            "connection",
            "audience",
        )
        self.segment_members = self.gauge(
            "segment_members",
            "Members of a segment in its last full scan.",
            "connection",
            "segment",
        )
        self.segment_seconds = self.gauge(
            "segment_scan_seconds",
            "Duration of the last full scan of a segment.",
            "connection",
            "segment",
        )
        self.requests = self.counter(
            "requests",
            "Requests sent; status is the HTTP status, or none without a response.",
            "connection",
            "destination",
            "endpoint",
            "status",
        )
        self.request_seconds = self.histogram(
            "request_seconds", "Time until the response.", "destination", "endpoint"
        )
        self.batch = self.histogram(
            "batch_size",
            "Records per request.",
            "destination",
            "endpoint",
            buckets=(1, 2, 5, 10, 50, 100, 250, 500, 1000, 10_000),
        )
        self.quota = self.gauge(
            "rate_limit_remaining",
            "Requests left in the quota of the connector.",
            "account",
            "endpoint",
            "window",
        )
        self.quota_wait = self.counter(
            "rate_limit_wait_seconds", "Time that requests waited for quota.", "account", "endpoint"
        )
        self.last_received = self.gauge(
            "last_received_timestamp_seconds",
            "Time of the last received record.",
            "connection",
            "via",
        )
        self.last_delivered = self.gauge(
            "last_delivered_timestamp_seconds",
            "Time of the last accepted record.",
            "connection",
            "destination",
            "kind",
        )
        self.checkpoint = self.gauge(
            "checkpoint_timestamp_seconds",
            "Time at which a stream's cursor was last saved.",
            "connection",
            "stream",
        )
        self.lanes = self.gauge(
            "lane_state",
            "1 for the current state of a lane, 0 for the others.",
            "connection",
            "destination",
            "kind",
            "state",
        )
        self.revision = self.gauge(
            "klaviyo_revision_expiry_timestamp_seconds",
            "Time at which the configured Klaviyo revision stops being stable; 0 if unknown.",
        )
        self.oauth_expiry = self.gauge(
            "oauth_expiry_timestamp_seconds",
            "Time at which an OAuth grant ends unless it is used before; the past if it has ended.",
            "connection",
        )
        self.store_bytes = self.gauge("store_bytes", "Size of the store on disk.")
        self.store_free = self.gauge("store_free_bytes", "Free space on the disk of the store.")
        self.reload_ok = self.gauge(
            "config_last_reload_successful",
            "1 if the last reload of the configuration succeeded, else 0.",
        )
        self.lease = self.gauge(
            "lease_held", "1 if this process holds the lease, else 0.", "account"
        )
        self.gauge("build_info", "Always 1; the label has the version.", "version").labels(
            version
        ).set(1)
        self.reload_ok.set(1)
        self._revisions: dict[str, float] = {}

    def register_connection(self, connection: str, revision_until: float) -> None:
        """Create a connection's counters at 0, so that the first count is an increase. The revision
        gauge shows the earliest `revision_until` of all connections."""
        for reason in _REJECT_REASONS:
            self.rejected.labels(connection, reason)
        self.unattached.labels(connection)
        self._revisions[connection] = revision_until
        self.revision.set(min(self._revisions.values()))

    def drop_disk_gauges(self) -> None:
        """Remove the disk gauges: the store is not on a disk of this machine."""
        self.registry.unregister(self.store_bytes)
        self.registry.unregister(self.store_free)

    # ── recorded by the loops ────────────────────────────────────────────────────────────────────

    def record_received(self, lane: Lane, via: str, result: Appended, now: Millis) -> None:
        connection, kind = lane.connection, lane.kind
        count = result.accepted + result.duplicates + result.forgotten
        self.received.labels(connection, kind, via).inc(count)
        self.on_change("status")
        if result.forgotten:
            self.skipped.labels(connection, "forgotten").inc(result.forgotten)
            self.activity.skipped[connection, "forgotten"] += result.forgotten
        self.last_received.labels(connection, via).set(now / 1000)
        self.activity.record_received(connection, via, now)
        if result.duplicates:
            self.duplicates.labels(connection, kind).inc(result.duplicates)

    def record_action(self, connection: str, action: str, outcome: str, count: int = 1) -> None:
        self.actions.labels(connection, action, outcome).inc(count)
        self.on_change("actions")

    def record_rejected(
        self, connection: str, reason: str, now: Millis, problem: Problem | None = None
    ) -> None:
        """Count a call that was refused."""
        self.rejected.labels(connection, reason).inc()
        self.on_change("status")
        self.activity.record_refused(connection, reason, now, problem)

    def record_unattached(self, connection: str, count: int) -> None:
        """So many events were accepted without the fields that they should have carried."""
        self.unattached.labels(connection).inc(count)
        self.activity.unattached[connection] += count

    def record_settled(
        self, lane: Lane, delivery: Delivery, entries: Mapping[int, Entry], now: Millis
    ) -> None:
        """Count the outcomes of a delivery. Latency is observed for accepted records."""
        connection, destination, kind = lane.connection, lane.destination, lane.kind
        tally: Tally[str] = Tally()
        observe = self.latency.labels(connection, kind).observe
        counts_names = lane.lane_kind.counts_names
        for outcome in delivery.outcomes:
            if label := _OUTCOME_LABELS.get(type(outcome)):
                tally[label] += 1
                if counts_names:
                    self.record_action(connection, entries[outcome.seq].name, label)
            if isinstance(outcome, Accepted):
                observe((now - entries[outcome.seq].received_at) / 1000)
            elif isinstance(outcome, Skipped):
                self.skipped.labels(connection, outcome.reason).inc()
                self.activity.skipped[connection, outcome.reason] += 1
            elif isinstance(outcome, Dead | Held):
                self.activity.record_problem(connection, outcome.problem, now)
            elif isinstance(outcome, Retry | Ambiguous):
                self.retries.labels(connection, destination, outcome.problem.value).inc()
        for label, count in tally.items():
            self.deliveries.labels(connection, destination, kind, label).inc(count)
        if tally["accepted"]:
            self.last_delivered.labels(connection, destination, kind).set(now / 1000)
        self.on_change("dead-letters" if tally["dead"] or tally["held"] else "status")
        self.activity.record_settled(
            lane.id, tally.total(), accepted=bool(tally["accepted"]), now=now
        )

    def record_job_closed(self, lane: Lane, accepted: int, dead: int, now: Millis) -> None:
        """Count the outcomes of a finished import job."""
        connection, destination, kind = lane.connection, lane.destination, lane.kind
        for label, count in (("accepted", accepted), ("dead", dead)):
            if count > 0:
                self.deliveries.labels(connection, destination, kind, label).inc(count)
        if accepted > 0:
            self.last_delivered.labels(connection, destination, kind).set(now / 1000)
        self.on_change("dead-letters" if dead else "status")
        self.activity.record_settled(lane.id, accepted + dead, accepted=accepted > 0, now=now)

    def record_lane_state(self, lane: Lane, mode: LaneMode) -> None:
        self.set_lane_state(lane, mode)
        self.on_change("status")

    def set_lane_state(self, lane: Lane, mode: LaneMode) -> None:
        for each in _MODES:
            self.lanes.labels(lane.connection, lane.destination, lane.kind, each).set(each == mode)

    def record_request(
        self, connection: str, destination: str, route: str, status: int | None, seconds: float
    ) -> None:
        label = "none" if status is None else str(status)
        self.requests.labels(connection, destination, route, label).inc()
        self.request_seconds.labels(destination, route).observe(seconds)

    # ── set at scrape time ───────────────────────────────────────────────────────────────────────

    def set_lease(self, resource: str, *, held: bool) -> None:
        """Whether this process holds the lease of an account, or of the store."""
        self.lease.labels(_lease_label(resource)).set(int(held))

    def forget_lease(self, resource: str) -> None:
        """This process has no connection any more that needs the lease."""
        with contextlib.suppress(KeyError):
            self.lease.remove(_lease_label(resource))

    def forget_connections(self) -> None:
        """Drop the gauges that describe connections: another process may describe them by now."""
        for gauge in (
            self.outbox,
            self.oldest,
            self.uncertain,
            self.checkpoint,
            self.members,
            self.segment_members,
            self.segment_seconds,
            self.oauth_expiry,
        ):
            gauge.clear()

    def set_backlog(self, backlogs: Sequence[Backlog], now: Millis) -> None:
        """Lanes of one kind are added up: profiles have one lane for reads and one for writes."""
        waiting: Tally[tuple[str, str, str]] = Tally()
        oldest: dict[tuple[str, str], float] = {}
        for b in backlogs:
            connection, kind = b.lane.connection, b.lane.kind
            for state in ("ready", "claimed", "held", "dead"):
                waiting[connection, kind, state] += getattr(b, state)
            age = max(0, now - b.oldest) / 1000 if b.oldest is not None else 0.0
            oldest[connection, kind] = max(age, oldest.get((connection, kind), 0.0))
            self.set_lane_state(b.lane, b.state.mode)
        for key, count in waiting.items():
            self.outbox.labels(*key).set(count)
        for labels, age in oldest.items():
            self.oldest.labels(*labels).set(age)

    def set_dead_letters(self, groups: Sequence[StuckGroup]) -> None:
        self.dead.clear()
        for group in groups:
            if group.state is State.DEAD:
                self.dead.labels(group.lane.connection, group.problem).inc(group.entries)

    def set_uncertain(self, found: Mapping[str, int], connections: Sequence[str]) -> None:
        for connection in connections:
            self.uncertain.labels(connection).set(found.get(connection, 0))

    def set_approvals(self, pending: Sequence[Approval]) -> None:
        self.approvals.clear()
        for (connection, what), count in Tally((a.connection, a.what) for a in pending).items():
            self.approvals.labels(connection, what).set(count)

    def set_people(self, found: Mapping[tuple[str, str], int]) -> None:
        """`found`: (connection, state) → number of people."""
        self.people.clear()
        for labels, count in found.items():
            self.people.labels(*labels).set(count)

    def set_groups(self, found: Sequence[Group]) -> None:
        """Labels are the configured names. Groups at a platform are not scanned: no gauge."""
        for group in found:
            labels = (group.connection, group.name)
            if group.saved_at is not None:
                stream = f"{group.kind} {group.name}"
                self.checkpoint.labels(group.connection, stream).set(group.saved_at / 1000)
            if not group.completed_scan:
                continue
            if group.kind == "audience":
                self.members.labels(*labels).set(group.members)
            elif group.kind == "segment":
                self.segment_members.labels(*labels).set(group.members)
                self.segment_seconds.labels(*labels).set(group.scan_ms / 1000)
