"""Dashboards use existing metrics, have units and a valid layout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .tools import DASHBOARDS, GRAFANA, RULES, Query, dashboard, exported, faults, panels, queries

QUERIES = queries()


def plain(expr: str) -> str:
    """A query with Grafana's built-in variables replaced."""
    return re.sub(r"\$__(?:rate_interval|range)", "5m", expr)


def test_the_four_dashboards_exist() -> None:
    assert [d.stem for d in DASHBOARDS] == ["connection", "klaviyo-quota", "overview", "store"]
    uids = {dashboard(path)["uid"] for path in DASHBOARDS}
    titles = {dashboard(path)["title"] for path in DASHBOARDS}
    assert len(uids) == len(titles) == 4


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: f"{q.dashboard}: {q.panel}")
def test_every_query_uses_existing_metrics_and_labels(query: Query) -> None:
    assert not faults(plain(query.expr))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_every_panel_has_a_plain_title_a_unit_and_the_provisioned_datasource(path: Path) -> None:
    provisioned = (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    for panel in panels(path):
        assert re.fullmatch(r"[A-Z][A-Za-z0-9 ',-]{3,60}", panel["title"]), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        for place in (panel, *panel["targets"]):
            assert place["datasource"]["type"] == "prometheus"
            assert f"uid: {place['datasource']['uid']}\n" in provisioned


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_panels_have_unique_ids_and_do_not_overlap(path: Path) -> None:
    ids, cells = [], set()
    for panel in dashboard(path)["panels"]:
        at = panel["gridPos"]
        ids.append(panel["id"])
        assert at["x"] + at["w"] <= 24
        occupied = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & occupied, panel["title"]
        cells |= occupied
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_variables_are_declared_used_and_filled_from_labels_that_exist(path: Path) -> None:
    whole = dashboard(path)
    variables = {v["name"]: v["definition"] for v in whole["templating"]["list"]}
    exprs = [target["expr"] for panel in panels(path) for target in panel["targets"]]
    used = set(re.findall(r"\$(?!__)(\w+)", " ".join([*exprs, *variables.values()])))
    assert used == variables.keys()
    assert "connection" in variables
    for definition in variables.values():
        found = re.fullmatch(r"label_values\((connector_\w+)(?:\{.*\})?, (\w+)\)", definition)
        assert found, definition
        assert found[2] in exported()[found[1]]


def test_legends_use_labels_that_the_query_returns() -> None:
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                groups = re.findall(r"\bby \(([^)]*)\)", target["expr"])
                left = {label for group in groups for label in group.split(", ")}
                assert used <= left, (panel["title"], used - left)


def test_the_scrape_interval_matches_grafanas_setting() -> None:
    datasource = (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    prometheus = (RULES.parent / "prometheus.yml").read_text()
    assert "timeInterval: 15s" in datasource
    assert "scrape_interval: 15s" in prometheus
