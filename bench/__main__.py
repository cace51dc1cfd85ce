"""`python -m bench`: runs both sides in turn and prints a table. Always exits 0: a timing depends
on the machine, so it is shown and never asserted."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from bench import (
    attacks,
    audience,
    backfill,
    backlog,
    blast,
    console,
    drain,
    fair,
    growth,
    intake,
    live,
    peers,
    postgresql,
    quota,
    replicas,
    report,
    segment,
    size,
    start,
    states,
)
from bench.load import signed_requests

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table. `met` compares the medians of this run only."""

    measure: str
    ours: str
    floor: str
    ratio: str
    goal: str
    met: bool


def _backfill(options: argparse.Namespace, folder: Path) -> str:
    return backfill.text(backfill.measure(options.people or 200_000, folder))


def _states(options: argparse.Namespace, folder: Path) -> str:
    return states.text(asyncio.run(states.measure(options.people or 100_000, folder)))


def _backlog(options: argparse.Namespace, folder: Path) -> str:
    return backlog.text(backlog.measure((10_000, 1_000_000), 30.0, folder))


def _quota(options: argparse.Namespace, folder: Path) -> str:
    return quota.text([quota.measure(options.minutes, folder)])


def _blast(options: argparse.Namespace, folder: Path) -> str:
    return blast.text([blast.measure(options.minutes, folder)])


def _audience(options: argparse.Namespace, folder: Path) -> str:
    return audience.text(asyncio.run(audience.measure(options.people or 100_000, folder)))


def _attacks(options: argparse.Namespace, folder: Path) -> str:
    return attacks.text(attacks.measure(folder))


def _console(options: argparse.Namespace, folder: Path) -> str:
    return console.text([console.measure(folder)])


def _live(options: argparse.Namespace, folder: Path) -> str:
    return live.text(
        live.measure(options.rate, options.seconds, options.repeats, highest=options.highest)
    )


def _fair(options: argparse.Namespace, folder: Path) -> str:
    runs = fair.measure(
        options.events,
        options.rate,
        options.seconds,
        options.repeats,
        folder,
        on_postgresql=options.on_postgresql,
    )
    return fair.text(runs)


def _growth(options: argparse.Namespace, folder: Path) -> str:
    sizes = growth.Sizes(options.rows, options.people or options.rows, 300, 300)
    return growth.text(growth.measure(sizes, folder))


def _peers(options: argparse.Namespace, folder: Path) -> str:
    return peers.text(peers.measure(options.sdk_events, folder))


def _size(options: argparse.Namespace, folder: Path) -> str:
    return size.text(size.measure(options.rate, options.seconds, rows=options.history))


def _postgresql(options: argparse.Namespace, folder: Path) -> str:
    return postgresql.text(postgresql.measure(options.events, options.repeats, folder))


def _replicas(options: argparse.Namespace, folder: Path) -> str:
    return replicas.text(replicas.measure(options.rate, options.seconds))


def _start(options: argparse.Namespace, folder: Path) -> str:
    return start.text(start.measure(folder, options.repeats))


def _segment(options: argparse.Namespace, folder: Path) -> str:
    return segment.text(asyncio.run(segment.measure(options.people or 100_000, folder)))


_STANDALONE: dict[str, Callable[[argparse.Namespace, Path], str]] = {
    "attacks": _attacks,
    "audience": _audience,
    "backfill": _backfill,
    "backlog": _backlog,
    "blast": _blast,
    "console": _console,
    "fair": _fair,
    "live": _live,
    "growth": _growth,
    "peers": _peers,
    "postgresql": _postgresql,
    "quota": _quota,
    "replicas": _replicas,
    "segment": _segment,
    "size": _size,
    "start": _start,
    "states": _states,
}
"""Benchmarks that run by name only: they take longer, or have no floor to alternate with."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", choices=("intake", "drain", *_STANDALONE))
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="measured seconds per intake run"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs per side")
    parser.add_argument(
        "--events", type=int, default=100_000, help="events in the backlog to drain"
    )
    parser.add_argument("--rate", type=float, default=50.0, help="webhooks a second in live")
    parser.add_argument(
        "--highest", action="store_true", help="in live: raise the rate until it is too high"
    )
    parser.add_argument(
        "--on-postgresql", action="store_true", help="in fair: with PostgreSQL as the store"
    )
    parser.add_argument("--json", action="store_true", help="print every run as JSON")
    parser.add_argument(
        "--people", type=int, help="people in states, audience (100,000) or backfill (200,000)"
    )
    parser.add_argument("--rows", type=int, default=100_000, help="rows in growth")
    parser.add_argument("--minutes", type=float, default=3.0, help="duration of quota and blast")
    parser.add_argument(
        "--report", type=Path, help="measure what the goals are about, and write it to this file"
    )
    parser.add_argument(
        "--history", type=int, nargs="+", default=size.ROWS, help="rows of the histories in size"
    )
    parser.add_argument(
        "--sdk-events", type=int, default=2_000, help="events of the loop over Klaviyo's SDK"
    )
    options = parser.parse_args()
    if options.report:
        report.write(
            report.Options(
                repeats=options.repeats,
                seconds=options.seconds,
                rate=options.rate,
                people=options.people or 3_000,
                events=options.sdk_events,
                rows=options.history,
            ),
            options.report,
        )
        return
    if options.only in _STANDALONE:
        _log(options.only)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            print(_STANDALONE[options.only](options, Path(folder)))
        return
    rows: list[Row] = []
    runs: dict[str, Any] = {}
    if options.only != "drain":
        found, runs["intake"] = _run_intake(options)
        rows += found
    if options.only != "intake":
        found, runs["drain"] = _run_drain(options)
        rows += found
    if options.json:
        print(json.dumps({"goals": [asdict(row) for row in rows], "runs": runs}, indent=2))
    else:
        _show(rows)


def _run_intake(options: argparse.Namespace) -> tuple[list[Row], Any]:
    _log("intake: creating webhooks")
    requests = signed_requests(intake.requests_needed(options.seconds))
    ours, floor = _alternate(
        "intake",
        options.repeats,
        lambda: intake.ours(requests, options.seconds),
        lambda: intake.floor(requests, options.seconds),
    )
    return _intake(ours, floor), _documents(ours, floor)


def _run_drain(options: argparse.Namespace) -> tuple[list[Row], Any]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        _log("drain: filling a backlog")
        bench = drain.Bench(options.events, Path(folder))
        ours, floor = _alternate("drain", options.repeats, bench.ours, bench.floor)
    return _drain(ours, floor), _documents(ours, floor)


def _documents(ours: Sequence[Any], floor: Sequence[Any]) -> dict[str, Any]:
    return {"ours": [asdict(run) for run in ours], "floor": [asdict(run) for run in floor]}


def _alternate(
    name: str, repeats: int, ours: Callable[[], R], floor: Callable[[], R]
) -> tuple[list[R], list[R]]:
    """Run both sides in turn, so that a slow minute of the machine affects both."""
    left: list[R] = []
    right: list[R] = []
    for number in range(1, repeats + 1):
        _log(f"{name}: {number} of {repeats}")
        left.append(ours())
        right.append(floor())
    return left, right


def _intake(ours: Sequence[intake.Run], floor: Sequence[intake.Run]) -> list[Row]:
    for run in (*ours, *floor):
        if run.refused or run.stored < run.acknowledged:
            _log(f"intake: {run.refused} rejected, {run.acknowledged - run.stored} not stored")
    rate, floor_rate = _median(r.rate for r in ours), _median(r.rate for r in floor)
    cpu, floor_cpu = _median(r.cpu for r in ours), _median(r.cpu for r in floor)
    ratio = rate / floor_rate
    return [
        Row(
            "intake, webhooks/s",
            f"{rate:,.0f}",
            f"{floor_rate:,.0f}",
            f"{ratio:.0%}",
            ">= 70 %",
            ratio >= 0.7,
        ),
        Row(
            "intake, CPU µs/webhook",
            f"{cpu * 1e6:.1f}",
            f"{floor_cpu * 1e6:.1f}",
            f"{cpu / floor_cpu:.1f}x" if floor_cpu else "-",
            "",
            True,
        ),
        Row(
            "intake, ms p50 / p99",
            _latency(ours),
            _latency(floor),
            "",
            "",
            True,
        ),
    ]


def _drain(ours: Sequence[drain.Run], floor: Sequence[drain.Run]) -> list[Row]:
    rate, floor_rate = _median(r.rate for r in ours), _median(r.rate for r in floor)
    cpu, floor_cpu = _median(r.cpu for r in ours), _median(r.cpu for r in floor)
    return [
        Row(
            "drain, events/s",
            f"{rate:,.0f}",
            f"{floor_rate:,.0f}",
            f"{rate / floor_rate:.0%}",
            ">= 10,000/s",
            rate >= 10_000,
        ),
        Row(
            "drain, CPU µs/event",
            f"{cpu * 1e6:.1f}",
            f"{floor_cpu * 1e6:.1f}",
            f"{cpu / floor_cpu:.1f}x",
            "<= 3x",
            cpu <= 3 * floor_cpu,
        ),
    ]


def _latency(runs: Sequence[intake.Run]) -> str:
    p50, p99 = _median(r.p50 for r in runs), _median(r.p99 for r in runs)
    return f"{p50 * 1000:.1f} / {p99 * 1000:.1f}"


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _show(rows: Sequence[Row]) -> None:
    table = Table("", "ours", "floor", "ratio", "goal", "met")
    for row in rows:
        met = ("yes" if row.met else "NO") if row.goal else ""
        table.add_row(row.measure, row.ours, row.floor, row.ratio, row.goal, met)
    Console().print(table)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
