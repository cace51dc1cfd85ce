"""`bench/report.md` and its chart: every figure a ratio of two things measured in this run.

Goals are those of the project. A figure that misses its goal is marked; a goal that this machine
cannot show (it asks for a faster one) is marked as such and counts neither way.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench import backfill, drain, intake, live, peers, size, start
from bench.chart import Bar, draw
from bench.load import signed_requests

T = TypeVar("T")
_LIVE_SECONDS = 10.0
_SIZE_RATE = 40.0


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured. `rows`: sizes of the history; `people`: of the backfill; `events`: for
    the loop over the SDK; `rate`: webhooks a second in live."""

    repeats: int
    seconds: float
    rate: float
    people: int
    events: int
    rows: Sequence[int]


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the report. `value` is a ratio, compared with `goal`; `at_least`: larger is better.
    `goal` None: shown only, or not to be judged on this machine, as `note` says."""

    name: str
    value: float
    shown: str
    measured: str
    goal: float | None = None
    goal_shown: str = ""
    at_least: bool = False
    note: str = ""

    @property
    def of_goal(self) -> float | None:
        """1 and less is met."""
        if self.goal is None or self.value <= 0:
            return None
        return self.goal / self.value if self.at_least else self.value / self.goal


@dataclass(slots=True)
class Report:
    figures: list[Figure] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)

    def step(self, name: str) -> None:
        self.loads.append(os.getloadavg()[0])
        print(f"report: {name}, load {self.loads[-1]:.1f}", file=sys.stderr, flush=True)


def write(options: Options, path: Path) -> None:
    """Measure everything, and write the report to `path` and the chart beside it."""
    report = Report()
    with tempfile.TemporaryDirectory(prefix="bench-report-") as name:
        folder = Path(name)
        steps: Sequence[Callable[[Report, Options, Path], None]] = (
            _intake,
            _drain,
            _live,
            _backfill,
            _start,
            _peers,
            _size,
        )
        for step in steps:
            report.step(step.__name__.strip("_"))
            place = folder / step.__name__
            place.mkdir()
            step(report, options, place)
    report.step("done")
    chart = path.with_suffix(".svg")
    bars = [Bar(f.name, f.of_goal, f.shown) for f in report.figures if f.of_goal is not None]
    chart.write_text(draw("Speed against the goals", bars))
    path.write_text(markdown(report, chart.name))


# ── what is measured ─────────────────────────────────────────────────────────────────────────────


def _turns(repeats: int, one: Callable[[], T], other: Callable[[], T]) -> tuple[list[T], list[T]]:
    turns = [(one(), other()) for _ in range(repeats)]
    return [a for a, _ in turns], [b for _, b in turns]


def _intake(report: Report, options: Options, folder: Path) -> None:
    requests = signed_requests(intake.requests_needed(options.seconds))
    ours, floor = _turns(
        options.repeats,
        lambda: intake.ours(requests, options.seconds),
        lambda: intake.floor(requests, options.seconds),
    )
    rate, least = _median(r.rate for r in ours), _median(r.rate for r in floor)
    cpu, floor_cpu = _median(r.cpu for r in ours), _median(r.cpu for r in floor)
    report.figures += [
        Figure(
            "intake, rate ÷ floor",
            rate / least,
            f"{rate / least:.0%}",
            f"{rate:,.0f}/s ÷ {least:,.0f}/s",
            0.7,
            "≥ 70 %",
            at_least=True,
        ),
        Figure(
            "intake, CPU ÷ floor",
            cpu / floor_cpu,
            f"{cpu / floor_cpu:.1f}",
            f"{cpu * 1e6:,.0f} µs ÷ {floor_cpu * 1e6:,.0f} µs a webhook",
        ),
    ]


def _drain(report: Report, options: Options, folder: Path) -> None:
    bench = drain.Bench(50_000, folder)
    ours, floor = _turns(options.repeats, bench.ours, bench.floor)
    cpu, least = _median(r.cpu for r in ours), _median(r.cpu for r in floor)
    report.figures.append(
        Figure(
            "drain, CPU ÷ floor",
            cpu / least,
            f"{cpu / least:.1f}",
            f"{cpu * 1e6:,.0f} µs ÷ {least * 1e6:,.0f} µs an event",
            3.0,
            "≤ 3",
        )
    )


def _live(report: Report, options: Options, folder: Path) -> None:
    found = live.measure(options.rate, _LIVE_SECONDS, options.repeats, highest=True)
    cpu, least = _median(r.cpu for r in found.ours), _median(r.cpu for r in found.floor)
    highest = max((r.rate for r in found.growing if r.keeps_up), default=options.rate)
    taken = _value(report, "intake, rate ÷ floor")
    fast = taken is not None and "intake" in taken.name and _ours_rate(taken) >= 10_000
    report.figures += [
        Figure(
            "live, CPU of an event ÷ floor",
            cpu / least,
            f"{cpu / least:.1f}",
            f"{cpu * 1e6:,.0f} µs ÷ {least * 1e6:,.0f} µs",
            2.5,
            "≤ 2.5",
        ),
        Figure(
            "live, highest rate with p99 < 1 s",
            highest / 2_500,
            f"{highest:,.0f}/s",
            f"{highest:,.0f}/s ÷ 2,500/s",
            1.0 if fast else None,
            "≥ 2,500/s",
            at_least=True,
            note="" if fast else "asked of a core that does `intake` at 10,000/s",
        ),
    ]


def _backfill(report: Report, options: Options, folder: Path) -> None:
    found = backfill.measure_undisturbed(options.people, folder)
    floor = _value(report, "live, CPU of an event ÷ floor")
    per_person = found.cpu * 1000
    shown = f"{found.people:,} people in {found.seconds:.0f} s"
    report.figures.append(
        Figure(
            "backfill, CPU of a person",
            per_person,
            f"{per_person:.1f} ms",
            shown + (f"; live: {floor.measured}" if floor else ""),
            1.5,
            "≤ 1.5 ms",
        )
    )
    if len(found.idle) > 1 and len(found.live) > 1:
        idle, beside = _p99(found.idle), _p99(found.live)
        report.figures.append(
            Figure(
                "live p99 beside a backfill ÷ without",
                beside / idle,
                f"{beside / idle:.1f}",
                f"{beside * 1000:,.0f} ms ÷ {idle * 1000:,.0f} ms",
                1.5,
                "≤ 1.5",
            )
        )


def _start(report: Report, options: Options, folder: Path) -> None:
    found = start.measure(folder, options.repeats)
    report.figures += [
        Figure(
            "run → ready ÷ import floor",
            found.ready / found.floor,
            f"{found.ready / found.floor:.1f}",
            f"{found.ready:.2f} s ÷ {found.floor:.2f} s",
            2.0,
            "≤ 2",
        ),
        Figure(
            "status ÷ import floor",
            found.status / found.floor,
            f"{found.status / found.floor:.1f}",
            f"{found.status:.2f} s ÷ {found.floor:.2f} s",
            1.2,
            "≤ 1.2",
        ),
        Figure(
            "100 connections: run → ready",
            found.ready_100,
            f"{found.ready_100:.1f} s",
            f"{found.ready_100 / found.floor:.1f} import floors",
            3.0,
            "≤ 3 s",
        ),
        Figure(
            "100 connections: longest freeze",
            found.freeze_100 * 1000,
            f"{found.freeze_100 * 1000:,.0f} ms",
            "longest wait for /livez in its first 10 s",
            50.0,
            "≤ 50 ms",
        ),
        Figure(
            "100 connections: idle",
            found.idle_100,
            f"{found.idle_100:.1%}",
            "of a core",
            0.01,
            "≤ 1 %",
        ),
    ]


def _peers(report: Report, options: Options, folder: Path) -> None:
    found = peers.measure(options.events, folder)
    ratio = found.sdk.seconds / found.ours.seconds
    full = options.events >= 12_000
    report.figures.append(
        Figure(
            f"SDK loop ÷ ours, {options.events:,} events",
            ratio,
            f"{ratio:.0f}",
            f"{found.sdk.seconds:,.1f} s ÷ {found.ours.seconds:,.1f} s",
            40.0 if full else None,
            "≥ 40",
            at_least=True,
            note="" if full else "asked for 12,000 events",
        )
    )
    rows = [
        (
            name,
            f"{run.seconds:,.1f} s",
            f"{run.cpu:,.1f} s",
            f"{run.requests:,}",
            f"{run.throttled:,}",
            f"{run.lost:,}",
            f"{run.doubled:,}",
        )
        for name, run in (("connector", found.ours), ("loop over klaviyo-api", found.sdk))
    ]
    heads = ("", "wall time", "CPU", "requests", "answers 429", "lost", "doubled")
    report.tables.append(
        f"## The same {options.events:,} events, Klaviyo's limits, 2 % of answers 503\n\n"
        + _table(heads, rows)
    )


def _size(report: Report, options: Options, folder: Path) -> None:
    runs = size.measure(_SIZE_RATE, _LIVE_SECONDS, rows=options.rows)
    base = runs[0]
    heads = ("history", "connections", "CPU of an event", "peak memory", "p99", "late")
    rows = [
        (
            f"{run.rows:,}",
            f"{run.connections}",
            f"{run.cpu * 1e6:,.0f} µs ({run.cpu / base.cpu:.2f})",
            f"{run.memory:,.0f} MiB ({run.memory / base.memory:.2f})",
            f"{run.p99 * 1000:,.0f} ms",
            f"{run.lost}",
        )
        for run in runs
    ]
    report.tables.append(
        f"## Cost against size\n\nThe work of `live` at {_SIZE_RATE:.0f} webhooks a second; in "
        "brackets the ratio to the first line.\n\n" + _table(heads, rows)
    )


# ── how it is shown ──────────────────────────────────────────────────────────────────────────────


def markdown(report: Report, chart: str) -> str:
    """The report as Markdown. `chart`: the name of the file beside it."""
    judged = [f for f in report.figures if f.of_goal is not None]
    met = sum((f.of_goal or 0) <= 1 for f in judged)
    rows = [
        (
            f.name,
            f.shown,
            f.measured,
            f.goal_shown,
            _verdict(f),
        )
        for f in report.figures
    ]
    low, high = min(report.loads), max(report.loads)
    machine = (
        f"{_commit()}{_cpu_model()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}. "
        f"Load average of the last minute while this ran: {low:.1f} to {high:.1f}"
    )
    shared = (
        " The machine was shared with other work: times are longer than the machine could do, and "
        "ratios less exact."
        if high > 3
        else ""
    )
    words = f"{met} of {len(judged)} goals are met"
    return "\n".join(
        [
            "# Speed",
            "",
            "Written by `make bench`. Every figure is a ratio of two measurements of this run, or "
            "has its measure beside it; what is measured, and how: [README.md](README.md).",
            "",
            f"{machine}.{shared}",
            "",
            f"![{words}; the table says the same]({chart})",
            "",
            f"## {words}",
            "",
            _table(("", "figure", "measured", "goal", ""), rows),
            "",
            "\n\n".join(report.tables),
            "",
        ]
    )


def _verdict(figure: Figure) -> str:
    if figure.of_goal is None:
        return figure.note or ""
    return "met" if figure.of_goal <= 1 else f"**missed**, {figure.of_goal:.1f} times the goal"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _value(report: Report, name: str) -> Figure | None:
    return next((f for f in report.figures if f.name == name), None)


def _ours_rate(figure: Figure) -> float:
    return float(figure.measured.partition("/s")[0].replace(",", ""))


def _commit() -> str:
    """`Commit abc1234: `; nothing outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"Commit {found}: "


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "unknown CPU")


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]
