"""Every query of dashboards and rules, asked of a real Prometheus that scrapes a real daemon."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cli.conftest import Folder, Platforms, until

from .running import Prometheus, post
from .tools import DASHBOARDS, RULES, Alert, Query, alerts, dashboard, queries

pytestmark = pytest.mark.timeout(240)

# What a daemon to which nothing bad happens does not show: these panels may be empty here.
QUIET = re.compile(
    r"connector_(?:records_skipped|retries)_total|connector_checkpoint|ALERTS"
    r'|connector_rate_limit_wait|reason="not_stored"|status="429"|status=~"4\.\.'
    r'|endpoint="GET /api/profile-bulk-import-jobs"'
)
VARIABLES = {
    "$connection": "acme",
    "$destination": ".*",
    "$account": ".*",
    "$__rate_interval": "10s",
    "$__range": "1m",
}


@dataclass(frozen=True, slots=True)
class Watched:
    """A daemon and the Prometheus that has looked at it for a while."""

    daemon: Folder
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(prometheus: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    path = tmp_path_factory.mktemp("observed")
    platforms = Platforms()
    daemon = Folder(path / path.name, platforms)
    watcher = Prometheus(prometheus, path / "prometheus", daemon.port, RULES.read_text())
    try:
        daemon.start()
        watcher.wait()
        keep_busy(daemon, watcher)
        yield Watched(daemon, watcher)
    finally:
        watcher.stop()
        daemon.stop()
        platforms.stop()


def keep_busy(daemon: Folder, watcher: Prometheus) -> None:
    """Something of everything, before a first look and between the next ones: a rate needs two."""

    def some() -> None:
        headers, body = post(daemon, 3)
        assert daemon.request("POST", "/webhooks/acme", body, headers)[0] == 202
        assert daemon.request("POST", "/webhooks/acme", body, {})[0] == 401

    def looked(times: int) -> bool:
        some()
        time.sleep(0.1)
        counted = "count_over_time(connector_last_delivered_timestamp_seconds"
        found = watcher.ask(f'{counted}{{destination="klaviyo", kind="profile"}}[1m])')
        return bool(found) and float(found[0]["value"][1]) >= times

    # One dead letter.
    daemon.platforms.klaviyo.faults.add("events", "status", status=400, count=1)
    until("prometheus has seen people told, again and again", lambda: looked(4))


def put_in(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


@pytest.mark.parametrize("query", queries(), ids=lambda q: f"{q.dashboard}: {q.panel}")
def test_every_panel_query_succeeds_and_expected_panels_have_data(
    watched: Watched, query: Query
) -> None:
    found = watched.prometheus.ask(put_in(query.expr))
    assert found or QUIET.search(query.expr), query.expr
    # NaN is no data: a division of nothing by nothing.
    if found and "histogram" not in query.expr and not QUIET.search(query.expr):
        assert any(one["value"][1] != "NaN" for one in found), query.expr


@pytest.mark.parametrize("alert", alerts(), ids=lambda a: a.name)
def test_every_rule_query_succeeds(watched: Watched, alert: Alert) -> None:
    watched.prometheus.ask(alert.expr)


def test_prometheus_loads_the_rules_without_a_fault(watched: Watched) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = watched.prometheus.api("rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    until("every rule was evaluated", lambda: all(r["health"] != "unknown" for r in rules()))
    assert {rule["health"] for rule in rules()} == {"ok"}
    read = {r["name"]: (r["labels"]["severity"], r["annotations"]) for r in rules()}
    assert read == {a.name: (a.severity, a.texts) for a in alerts()}


def test_a_healthy_daemon_fires_only_the_provoked_alerts(watched: Watched) -> None:
    # The dead letter and the forged webhooks are of keep_busy.
    assert watched.prometheus.firing() <= {"DeadLetters", "WebhookSignatureRefused"}


def test_every_variable_has_values(watched: Watched) -> None:
    for path in DASHBOARDS:
        for variable in dashboard(path)["templating"]["list"]:
            metric, label = re.findall(r"(connector_\w+).*, (\w+)\)", variable["definition"])[0]
            assert watched.prometheus.ask(f"group by ({label}) ({metric})")
