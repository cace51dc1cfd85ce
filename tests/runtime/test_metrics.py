"""The names, labels and counts of the metrics."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, LaneId, LaneState, Millis
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Delivery,
    Held,
    Retry,
    Skipped,
    Unsent,
)
from connector.domain.records import Appended, Entry, State
from connector.ports import Backlog, StuckGroup
from connector.runtime.metric_registry import CONTENT_TYPE
from connector.runtime.metrics import Metrics, account_label

LANE = Lane(LaneId(1), "acme", "klaviyo", "event")
PROFILES = Lane(LaneId(2), "acme", "klaviyo", "profile")
NOW = Millis(1_790_000_000_000)

# Written out by hand: name → labels.
EXPECTED = {
    "records_received_total": {"connection", "kind", "via"},
    "records_duplicate_total": {"connection", "kind"},
    "records_skipped_total": {"connection", "reason"},
    "webhooks_rejected_total": {"connection", "reason"},
    "deliveries_total": {"connection", "destination", "kind", "outcome"},
    "retries_total": {"connection", "destination", "reason"},
    "worker_restarts_total": {"worker"},
    "events_unattached_total": {"connection"},
    "delivery_latency_seconds": {"connection", "kind"},
    "outbox_records": {"connection", "kind", "state"},
    "outbox_oldest_seconds": {"connection", "kind"},
    "dead_letters": {"connection", "cause"},
    "actions_total": {"connection", "action", "outcome"},
    "actions_uncertain": {"connection"},
    "approvals_pending": {"connection", "what"},
    "people": {"connection", "state"},
    "requests_total": {"connection", "destination", "endpoint", "status"},
    "request_seconds": {"destination", "endpoint"},
    "batch_size": {"destination", "endpoint"},
    "rate_limit_remaining": {"account", "endpoint", "window"},
    "rate_limit_wait_seconds_total": {"account", "endpoint"},
    "last_received_timestamp_seconds": {"connection", "via"},
    "last_delivered_timestamp_seconds": {"connection", "destination", "kind"},
    "checkpoint_timestamp_seconds": {"connection", "stream"},
    "lane_state": {"connection", "destination", "kind", "state"},
    "audience_members": {"connection", "audience"},
    "segment_members": {"connection", "segment"},
    "segment_scan_seconds": {"connection", "segment"},
    "reconcile_drift": {"connection", "kind"},
    "backfill_progress_ratio": {"connection"},
    "oauth_expiry_timestamp_seconds": {"connection"},
    "klaviyo_revision_expiry_timestamp_seconds": set(),
    "store_bytes": set(),
    "store_free_bytes": set(),
    "config_last_reload_successful": set(),
    "lease_held": {"account"},
    "build_info": {"version"},
}
PROCESS = ("process_", "python_")


def make_entry(seq: int, received_at: int = NOW - 2_000) -> Entry:
    return Entry(
        seq=seq,
        unique_id=f"jericommerce:{seq}",
        name="Balance changed",
        occurred_at=NOW,
        received_at=Millis(received_at),
        email="ana@example.com",
        person=1,
        data=b'{"email":"ana@example.com"}',
        attempts=1,
        mode=DeliveryMode.BATCH,
        mapping=None,
        backfill=False,
    )


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"connector_{name}", labels)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3")


@pytest.fixture
def busy(metrics: Metrics) -> Metrics:
    """Metrics with one call of each method."""
    metrics.record_received(LANE, "webhook", Appended(accepted=3, duplicates=2), NOW)
    metrics.record_rejected("acme", Problem.WEBHOOK_UNSIGNED.value, NOW)
    outcomes = [
        Accepted(0, "r1"),
        Accepted(1, "r1"),
        Dead(2, Problem.KLAVIYO_REFUSED, "ana@example.com is invalid"),
        Retry(3, Problem.KLAVIYO_THROTTLED, 3.0),
        Ambiguous(4, Problem.TIMED_OUT),
        Unsent(5),
        Skipped(6, "disabled"),
        Held(7, Problem.NO_IDENTITY),
    ]
    entries = {seq: make_entry(seq) for seq in range(8)}
    metrics.record_settled(LANE, Delivery(outcomes), entries, NOW)
    metrics.set_lane_state(LANE, "blocked")
    metrics.record_request("acme", "klaviyo", "POST /api/events", 202, 0.2)
    metrics.record_request("acme", "klaviyo", "POST /api/events", None, 0.2)
    metrics.batch.labels("klaviyo", "POST /api/events").observe(1)
    metrics.quota.labels(account_label("01ABC"), "POST /api/events", "second").set(5)
    metrics.quota_wait.labels(account_label("01ABC"), "POST /api/events").inc(2)
    state = LaneState("held", Problem.HIGH_DEAD_RATE, "", NOW)
    metrics.set_backlog([Backlog(LANE, state, 5, 1, 2, 3, Millis(NOW - 9_000))], NOW)
    held = StuckGroup(LANE, State.HELD, "I10", 2)
    metrics.set_dead_letters([StuckGroup(LANE, State.DEAD, "K400", 3), held])
    metrics.checkpoint.labels("acme", "events").set(NOW / 1000)
    metrics.lease.labels(account_label("01ABC")).set(1)
    return metrics


def families(metrics: Metrics) -> Iterable[tuple[str, str, str, list[tuple[str, dict[str, str]]]]]:
    for family in text_string_to_metric_families(metrics.render().decode()):
        samples = [(sample.name, dict(sample.labels)) for sample in family.samples]
        yield family.name, family.type, family.documentation, samples


def test_every_metric_name_and_its_labels_are_as_expected(busy: Metrics) -> None:
    seen = set()
    for family, type, _, samples in families(busy):
        if family.startswith(PROCESS):
            continue
        assert family.startswith("connector_")
        name = family.removeprefix("connector_") + ("_total" if type == "counter" else "")
        assert name in EXPECTED
        seen.add(name)
        for _, labels in samples:
            assert labels.keys() - {"le"} == EXPECTED[name], name
    assert {"deliveries_total", "outbox_records", "lane_state", "build_info"} <= seen


def test_every_metric_has_a_help_text(metrics: Metrics) -> None:
    for family, _, text, _ in families(metrics):
        assert text, family
        if family.startswith("connector_"):
            assert text.endswith("."), family


def test_process_platform_and_gc_metrics_are_exported(metrics: Metrics) -> None:
    names = {family for family, *_ in families(metrics)}
    assert {"process_cpu_seconds", "python_info", "python_gc_objects_collected"} <= names


def test_received_records_are_counted(busy: Metrics) -> None:
    assert (
        value(busy, "records_received_total", connection="acme", kind="event", via="webhook") == 5
    )
    assert value(busy, "records_duplicate_total", connection="acme", kind="event") == 2
    assert value(busy, "webhooks_rejected_total", connection="acme", reason="W401") == 1
    at = value(busy, "last_received_timestamp_seconds", connection="acme", via="webhook")
    assert at == NOW / 1000


@pytest.mark.parametrize(
    ("outcome", "count"), [("accepted", 2), ("dead", 1), ("skipped", 1), ("held", 1)]
)
def test_a_settled_record_is_counted_by_its_outcome(
    busy: Metrics, outcome: str, count: int
) -> None:
    where = {"connection": "acme", "destination": "klaviyo", "kind": "event"}
    assert value(busy, "deliveries_total", **where, outcome=outcome) == count


def test_an_outcome_that_does_not_settle_is_not_counted(busy: Metrics) -> None:
    assert (
        sum(
            sample.value
            for family in busy.registry.collect()
            for sample in family.samples
            if sample.name == "connector_deliveries_total"
        )
        == 5
    )
    for reason in ("K429", "N30"):
        where = {"connection": "acme", "destination": "klaviyo"}
        assert value(busy, "retries_total", **where, reason=reason) == 1
    assert value(busy, "records_skipped_total", connection="acme", reason="disabled") == 1


def test_latency_is_from_receipt_to_acceptance(busy: Metrics) -> None:
    where = {"connection": "acme", "kind": "event"}
    assert value(busy, "delivery_latency_seconds_count", **where) == 2
    assert value(busy, "delivery_latency_seconds_sum", **where) == 4.0
    assert value(busy, "delivery_latency_seconds_bucket", **where, le="1.0") == 0
    assert value(busy, "delivery_latency_seconds_bucket", **where, le="2.5") == 2
    assert value(busy, "delivery_latency_seconds_bucket", **where, le="86400.0") == 2


def test_a_delivery_without_an_acceptance_does_not_set_last_delivery(metrics: Metrics) -> None:
    metrics.record_settled(LANE, Delivery([Unsent(1)]), {1: make_entry(1)}, NOW)
    where = {"connection": "acme", "destination": "klaviyo", "kind": "event"}
    assert value(metrics, "last_delivered_timestamp_seconds", **where) is None


def test_a_lane_has_one_state(busy: Metrics) -> None:
    where = {"connection": "acme", "destination": "klaviyo", "kind": "event"}
    states = {
        state: value(busy, "lane_state", **where, state=state)
        for state in ("running", "paused", "held", "blocked")
    }
    assert states == {"running": 0, "paused": 0, "held": 1, "blocked": 0}


def test_the_backlog_and_its_age_are_current(busy: Metrics) -> None:
    where = {"connection": "acme", "kind": "event"}
    states = ("ready", "claimed", "held", "dead")
    assert [value(busy, "outbox_records", **where, state=s) for s in states] == [5, 1, 2, 3]
    assert value(busy, "outbox_oldest_seconds", **where) == 9
    busy.set_backlog([Backlog(LANE, LaneState(), 0, 0, 0, 0, None)], NOW)
    assert value(busy, "outbox_oldest_seconds", **where) == 0


def test_a_cause_without_dead_letters_disappears(busy: Metrics) -> None:
    assert value(busy, "dead_letters", connection="acme", cause="K400") == 3
    assert value(busy, "dead_letters", connection="acme", cause="I10") is None
    # Of the lanes of a connection together.
    busy.set_dead_letters([StuckGroup(lane, State.DEAD, "E11", 1) for lane in (LANE, PROFILES)])
    assert value(busy, "dead_letters", connection="acme", cause="K400") is None
    assert value(busy, "dead_letters", connection="acme", cause="E11") == 2


def test_a_request_without_a_response_has_the_status_none(busy: Metrics) -> None:
    where = {"connection": "acme", "destination": "klaviyo", "endpoint": "POST /api/events"}
    assert value(busy, "requests_total", **where, status="202") == 1
    assert value(busy, "requests_total", **where, status="none") == 1


def test_no_label_contains_an_address_or_an_account(busy: Metrics) -> None:
    text = busy.render().decode()
    assert "@" not in text
    assert "01ABC" not in text
    assert len(account_label("01ABC")) == 8
    assert account_label("01ABC") != account_label("01ABD")


def test_two_apps_in_one_process_do_not_share_their_metrics(metrics: Metrics) -> None:
    Metrics("other").record_rejected("acme", "W401", NOW)
    assert value(metrics, "webhooks_rejected_total", connection="acme", reason="W401") is None
    assert value(metrics, "build_info", version="1.2.3") == 1


def test_the_content_type_is_the_text_format() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")
