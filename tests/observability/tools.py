"""Finds `promtool` and `prometheus`, and parses the files under test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from connector.runtime.metrics import Metrics
from tests.paths import ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
PAGES = ROOT / "docs" / "alerts"
RULES = PROMETHEUS / "rules.yml"
UNIT_TESTS = sorted(PROMETHEUS.glob("*.test.yml"))
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))

# ── the programs ─────────────────────────────────────────────────────────────────────────────────


class Missing(Exception):
    """A program is neither installed nor downloadable; the text says why."""


def program(name: str) -> str:
    """The path of `promtool` or `prometheus`: on PATH, else from Debian's package, which is
    unpacked once into the user's cache folder. Nothing is installed."""
    if found := shutil.which(name):
        return found
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "loyalty-connector" / "prometheus"
    path = folder / "usr" / "bin" / name
    if not path.exists():
        _unpack(folder)
    return str(path)


def _unpack(folder: Path) -> None:
    missing = [tool for tool in ("apt-get", "dpkg") if not shutil.which(tool)]
    if missing:
        raise Missing(f"not on PATH, and no {' or '.join(missing)} to download Debian's package")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        at = Path(scratch)
        _fetch(at)
        _run(at, 30, "dpkg", "-x", *(deb.name for deb in at.glob("prometheus_*.deb")), "whole")
        try:
            (at / "whole").rename(folder)
        except OSError as error:
            # Another process of the same test run may have unpacked it.
            if not (folder / "usr" / "bin" / "promtool").exists():
                raise Missing(f"cannot be moved to {folder}: {error}") from error


def _fetch(at: Path) -> None:
    """Download Debian's package into `at`, with the system's package lists or else new ones."""
    brief: tuple[str, ...] = ("-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10")
    if os.geteuid() == 0:
        brief += ("-o", "APT::Sandbox::User=root")
    try:
        _run(at, 30, "apt-get", *brief, "download", "prometheus")
    except Missing:
        for name in ("lists/partial", "cache/archives/partial"):
            (at / name).mkdir(parents=True)
        own = (
            *brief,
            "-o",
            f"Dir::State::lists={at / 'lists'}",
            "-o",
            f"Dir::Cache={at / 'cache'}",
        )
        _run(at, 60, "apt-get", *own, "update")
        _run(at, 30, "apt-get", *own, "download", "prometheus")


def _run(at: Path, seconds: float, *command: str) -> None:
    try:
        done = subprocess.run(command, cwd=at, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise Missing(f"`{command[0]}` took longer than {seconds:.0f} s") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Missing(f"`{command[0]} … {command[-1]}` failed: {' '.join(last)}")


# ── the rules ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert rule. `texts`: its annotations."""

    name: str
    expr: str
    severity: str
    texts: Mapping[str, str]

    @property
    def problems(self) -> list[str]:
        return self.texts["problems"].split()


def alerts() -> list[Alert]:
    """The alert rules, parsed by regular expressions: no YAML parser is installed, and the file has
    a fixed form. test_queries compares them with what Prometheus loads."""
    found = []
    for text in re.split(r"^      - alert: ", RULES.read_text(), flags=re.M)[1:]:
        name, _, rest = text.partition("\n")
        expr = re.search(r"^ {8}expr: (?:\|\n((?: {10}.*\n)+)|(.+)\n)", rest, re.M)
        severity = re.search(r"^ {10}severity: (\w+)$", rest, re.M)
        annotations = rest.partition(" annotations:\n")[2]
        texts = {
            key: orjson.loads(value) if value.startswith('"') else value
            for key, value in re.findall(r"^ {10}(\w+): (.+)$", annotations, re.M)
        }
        assert expr, f"{name} has no expr in the expected form"
        assert severity, f"{name} has no severity"
        found.append(Alert(name, (expr[1] or expr[2]).strip(), severity[1], texts))
    return found


# ── the dashboards ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Query:
    """One query of one panel."""

    dashboard: str
    panel: str
    expr: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel}: {self.expr}"


def dashboard(path: Path) -> dict[str, Any]:
    return dict(orjson.loads(path.read_bytes()))


def panels(path: Path) -> Iterator[dict[str, Any]]:
    """All panels except row headers."""
    for panel in dashboard(path)["panels"]:
        if panel["type"] != "row":
            yield panel


def queries() -> list[Query]:
    return [
        Query(path.stem, panel["title"], target["expr"])
        for path in DASHBOARDS
        for panel in panels(path)
        for target in panel["targets"]
    ]


# ── available metrics and labels ─────────────────────────────────────────────────────────────────

OF_PROMETHEUS = {
    "up": {"job", "instance"},
    "ALERTS": {"alertname", "alertstate", "severity", "connection", "destination", "kind", "cause"},
}
_EVERYWHERE = {"job", "instance"}
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?")
_FUNCTIONS = re.compile(
    "abs|and|avg|bool|changes|clamp_(?:max|min)|count|delta|deriv|group_(?:left|right)|increase|"
    "histogram_quantile|max|max_over_time|min|min_over_time|or|predict_linear|rate|scalar|sum|"
    r"time|topk|unless|vector|e\d+"
)


def exported() -> dict[str, set[str]]:
    """Every name that /metrics can show → its labels."""
    metrics = Metrics("test")
    found = dict(OF_PROMETHEUS)
    for family in metrics.registry.collect():
        labels = set(metrics.label_names.get(family.name, ())) | _EVERYWHERE
        if family.type == "histogram":
            found[f"{family.name}_bucket"] = labels | {"le"}
            found[f"{family.name}_count"] = found[f"{family.name}_sum"] = labels
        elif family.name.startswith("python_gc"):
            found[f"{family.name}_total"] = labels | {"generation"}
        else:
            found[family.name + ("_total" if family.type == "counter" else "")] = labels
    return found


def faults(expr: str) -> list[str]:
    """Metrics and labels in a query that do not exist: labels in braces must be labels of that
    metric, labels in `by`, `on` and `without` must be labels of any metric of the query."""
    known, found = exported(), []
    bare = re.sub(r"\[[^]]*\]", "", expr)
    grouped = re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", bare)
    names = {name.strip() for group in grouped for name in group.split(",") if name.strip()}
    rest = re.sub(r"\b(?:by|on|without|ignoring)\s*\([^)]*\)", "", bare)
    rest = re.sub(r"\boffset\s+\w+", "", rest)
    seen: set[str] = set()
    for name, braces in _SELECTOR.findall(_hide(rest)):
        if _FUNCTIONS.fullmatch(name):
            continue
        if name not in known:
            found.append(f"no metric {name}")
            continue
        seen |= known[name]
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", braces):
            if label not in known[name]:
                found.append(f"{name} has no label {label}")
    return found + [f"no metric here has the label {name}" for name in sorted(names - seen)]


def _hide(expr: str) -> str:
    """The query without the content of quotes and without numbers."""
    expr = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expr)
    return re.sub(r"(?<![\w:])\d[\w.]*", "0", expr)
