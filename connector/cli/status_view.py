"""The status as lines of text: the verdict, what needs a person, then the connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from connector.cli.format import format_ago, link_lines
from connector.domain.wording import counted, format_age

if TYPE_CHECKING:
    from connector.service.status import (
        Attention,
        ConnectionStatus,
        LaneStatus,
        QuotaStatus,
        Status,
    )

_LEVELS = {"ok": "bold green", "degraded": "bold yellow", "attention": "bold red"}
_STATES = {"running": "green", "paused": "yellow", "degraded": "yellow", "stopped": "dim"}
_WIDE = 100
_NOTABLE = 0.1
"""The share of a limit from which on its use is shown."""
_MOST_QUOTAS = 10
_FEW_NAMES = 3
_TROUBLE = ("blocked", "held", "stopped", "degraded", "paused", "running")
"""States of lanes, the worst first."""


def head(found: Status) -> list[RenderableType]:
    """What a person must see first, in this order: one line for everything, what needs them, what
    waits for a remote side, and which process runs."""
    verdict = found.verdict
    parts: list[RenderableType] = [Text(verdict.text, style=_LEVELS.get(verdict.level, "bold red"))]
    if found.holder:
        process = f"version {found.version}, {found.holder.rsplit('/', 2)[0]}"
        parts.append(Text(f"{process}, {_reachable(found)}", style="dim"))
    else:
        parts.append(Text("no process runs on this store; start it: connector run"))
    for heading, items in (("Needs you", found.attention), ("Waiting", found.degraded)):
        if items:
            style = "bold red" if items is found.attention else "bold yellow"
            parts.append(Text(f"\n{heading}", style=style))
            parts += [line for item in items for line in _attention(item, found.at)]
    return parts


def _reachable(found: Status) -> str:
    if found.reachable:
        return found.public_url
    return f"not reachable from elsewhere ({found.public_url or 'no public_url'})"


def _attention(item: Attention, now: int) -> list[RenderableType]:
    code = f"{item.code} " if item.code else ""
    times = []
    if item.since is not None:
        times.append(f"since {format_age((now - item.since) / 1000)}")
    if item.retry_in is not None:
        soon = item.retry_in < 1.0
        times.append("trying now" if soon else f"next try in {format_age(item.retry_in)}")
    more = f" ({', '.join(times)})" if times else ""
    lines: list[RenderableType] = [Padding(Text(f"{code}{item.text}{more}"), (0, 0, 0, 2))]
    if item.remedy:
        lines.append(Padding(Text(f"→ {item.remedy}", style="bold"), (0, 0, 0, 4)))
    return lines


def by_trouble(found: Status) -> list[str]:
    """The names of the connections, those in trouble first."""

    def rank(name: str) -> tuple[int, int, str]:
        lanes = found.connections[name].lanes
        worst = min((_TROUBLE.index(lane.state) for lane in lanes), default=len(_TROUBLE))
        return worst, -sum(lane.ready + lane.in_flight for lane in lanes), name

    return sorted(found.connections, key=rank)


def connection(name: str, found: Status, width: int) -> RenderableType:
    """One connection: what it is, what arrives, its lanes, people and links. A narrow console does
    not show the last delivery of each lane."""
    about = found.connections[name]
    parts: list[RenderableType] = [_title(name, about), Text(f"  {_intake(about, found.at)}")]
    lanes = _lanes(about.lanes, found.at, wide=width >= _WIDE)
    parts.append(Padding(lanes, (0, 0, 0, 2)))
    parts += [Padding(Text(line), (0, 0, 0, 2)) for line in _details(about)]
    return Group(*parts)


def _title(name: str, about: ConnectionStatus) -> Text:
    words = [about.title or about.source or "not running"]
    if about.mode == "shadow":
        words.append("shadow mode: nothing is sent")
    if about.title and not about.enabled:
        words.append("disabled")
    words += [", ".join(about.modules)] if about.modules else []
    return Text.assemble((name, "bold"), f"  {' · '.join(words)}")


def _intake(about: ConnectionStatus, now: int) -> str:
    """What arrived and what was refused last."""
    parts = [
        f"last {_VIA.get(via, via)} {format_ago(at, now)}"
        for via, at in sorted(about.received.items(), key=lambda x: -x[1])
    ]
    refusal = about.last_refusal
    if refusal and (refusal.in_a_row or now - refusal.at < _REFUSAL_SHOWN_MS):
        code = f"{refusal.problem} " if refusal.problem else ""
        times = f", {counted(refusal.in_a_row, 'time')} in a row" if refusal.in_a_row else ""
        parts.append(
            f"last refusal {format_ago(refusal.at, now)}: {code}{refusal.cause.replace('_', ' ')}"
            f"{times}"
        )
    if not parts:
        # A process that was killed could not save when it received what waits.
        waits = any(lane.ready or lane.in_flight for lane in about.lanes)
        return "last received: unknown" if waits else "nothing received yet"
    return "; ".join(parts)


_REFUSAL_SHOWN_MS = 3_600_000
"""How long a refusal is still shown once calls are accepted again."""
_VIA = {"flow": "flow call", "scan": "scan"}


def _lanes(lanes: list[LaneStatus], now: int, *, wide: bool) -> Table:
    table = Table(
        box=None, pad_edge=False, show_edge=False, header_style="dim", padding=(0, 1, 0, 0)
    )
    headings = ["lane", "state", "ready", "sending", "held", "dead", "oldest", "rate"]
    for heading in [*headings, "last sent"] if wide else headings:
        left = heading in ("lane", "state")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "lane")
    for lane in lanes:
        last = None if lane.last_delivered is None else (now - lane.last_delivered) / 1000
        state = Text(f"{lane.state} {lane.problem or ''}".strip(), _STATES.get(lane.state, "red"))
        table.add_row(
            lane.lane,
            state,
            *(f"{count:,}" for count in (lane.ready, lane.in_flight, lane.held, lane.dead)),
            format_age(lane.oldest_seconds),
            _rate(lane.per_second),
            *([format_age(last)] if wide else []),
        )
    return table


def _rate(per_second: float) -> str:
    """`1,239/s`, `0.5/s`; a dash for none."""
    if not per_second:
        return "-"
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.2g}/s"


def _details(about: ConnectionStatus) -> list[str]:
    lines = []
    for lane in about.lanes:
        if lane.eta_seconds is not None and lane.eta_seconds >= 60:
            left = format_age(lane.eta_seconds)
            lines.append(f"{lane.lane}: done in {left} at {_rate(lane.per_second)}")
    if about.people and (people := about.people):
        counts = [
            *([f"{people.synced:,} synced"] if people.synced is not None else []),
            *([f"{people.to_read:,} to read"] if people.to_read else []),
            *([f"{people.to_write:,} to write"] if people.to_write else []),
            *([f"{people.without_email:,} without e-mail"] if people.without_email else []),
            *([f"{people.gone:,} unknown to the platform"] if people.gone else []),
            *(f"{count:,} {code}" for code, count in people.skipped.items() if count),
        ]
        lines += [f"people: {', '.join(counts)}"] if counts else []
        if people.other_mapping:
            number = counted(people.other_mapping, "person was", "people were")
            lines.append(f"{number} rendered with another mapping version")
    if (actions := about.actions) and (actions.waiting or actions.uncertain or actions.held):
        eta = f", done in {format_age(actions.eta_seconds)}" if actions.eta_seconds else ""
        lines.append(
            f"actions: {actions.waiting:,} waiting{eta}, {actions.uncertain:,} uncertain, "
            f"{actions.held:,} held"
        )
    if about.skipped:
        rules = [f"{count:,} {reason}" for reason, count in sorted(about.skipped.items())]
        lines.append(f"skipped: {', '.join(rules)}")
    if about.unattached:
        events = counted(about.unattached, "event")
        lines.append(f"{events} sent without fresh fields: reads came too late or failed")
    for link in (*about.audiences, *about.segments):
        lines += link_lines(link.model_dump())
    return lines


def _quota(found: Status) -> list[str]:
    """What is nearest to its limit first: once for each account, whoever shares it."""
    shared: dict[tuple[str, str], list[str]] = {}
    uses = {}
    for name, about in found.connections.items():
        for use in about.quota:
            shared.setdefault((use.account, use.endpoint), []).append(name)
            uses[use.account, use.endpoint] = use
    by_share = sorted(uses, key=lambda key: -_share(uses[key]))
    shown = [k for k in by_share if _share(uses[k]) >= _NOTABLE][:_MOST_QUOTAS] or by_share[:1]
    lines = [f"{uses[key].text} ({_named(shared[key])})" for key in shown]
    if len(by_share) > len(shown):
        rest = by_share[len(shown) :]
        highest = max(1, round(100 * _share(uses[rest[0]])))
        lines.append(f"{counted(len(rest), 'other limit')}: {highest} % used at most")
    return lines


def _share(use: QuotaStatus) -> float:
    return use.used / max(1, use.allowed)


def _named(connections: list[str]) -> str:
    few = len(connections) <= _FEW_NAMES
    return ", ".join(connections) if few else counted(len(connections), "connection")


def tail(found: Status) -> list[RenderableType]:
    """Quota, backfills, approvals and dead letters."""
    parts: list[RenderableType] = []
    if quota := _quota(found):
        parts.append(Text("Requests in the last minute", style="bold"))
        parts += [Padding(Text(line), (0, 0, 0, 2)) for line in quota]
    for run in found.backfills:
        of = "" if run.total is None else f" of {run.total:,}"
        kind = "dry run" if run.dry_run else "backfill"
        state = run.state
        if state == "running" and not run.progressing:
            state = "interrupted, continues when the connector runs"
        eta = f", done in {format_age(run.eta_seconds)}" if run.eta_seconds is not None else ""
        parts.append(Text(f"{run.connection}: {kind} {run.id} {state}, {run.done:,}{of}{eta}"))
    if found.dead_letters:
        parts.append(Text("Dead letters and held records", style="bold"))
        for x in found.dead_letters:
            line = f"{x.count:>7,}  {x.connection} {x.lane}  {x.state}  {x.problem} {x.meaning}"
            parts.append(Padding(Text(line), (0, 0, 0, 2)))
            parts.append(Padding(Text(f"→ {x.remedy}"), (0, 0, 0, 11)))
    return parts


def whole(found: Status, width: int) -> RenderableType:
    """Everything, for `connector status` on a console of `width` columns."""
    parts = head(found)
    for name in by_trouble(found):
        parts += [Text(), connection(name, found, width)]
    rest = tail(found)
    return Group(*parts, *([Text(), *rest] if rest else []))


def lines_of(console: Console, part: RenderableType) -> list[Text]:
    """What `part` looks like on this console, line by line."""
    rendered = console.render_lines(part, console.options, pad=False)
    return [Text.assemble(*((s.text, s.style or "") for s in line)) for line in rendered]
