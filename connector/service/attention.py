"""Attention items made of what the store says. Each has a key that stays the same while the problem
is the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from connector.domain.attention import Affected, AttentionItem
from connector.domain.errors import Problem
from connector.domain.lanes import LaneId
from connector.domain.records import State
from connector.domain.remedies import Page, by
from connector.domain.wording import counted, format_age, listed
from connector.ports import Approval, Backlog, StuckGroup

_NO_ALERT = {Problem.PAUSED}
"""Stops that a person made on purpose."""


def silent(holder: str, millis: int) -> AttentionItem:
    """The process that holds the lease has saved no report for so long."""
    text = (
        f"{holder.rsplit('/', 2)[0]} holds the lease and has reported nothing for "
        f"{format_age(millis / 1000)}"
    )
    return AttentionItem("silent", text, todo="look at its log; restart it")


def locked(holder: str, millis: int, by: str) -> AttentionItem:
    """The process that runs can store nothing, because another program has locked the file."""
    text = (
        f"{holder.rsplit('/', 2)[0]} has stored nothing for {format_age(millis / 1000)}: {by} has "
        "locked the store's file, so webhooks are answered 503 and nothing is sent"
    )
    return AttentionItem("silent", text, Problem.STORE_UNAVAILABLE)


def of_lanes(backlogs: Sequence[Backlog], stuck: Sequence[StuckGroup]) -> list[AttentionItem]:
    """Lanes that were stopped, and entries that died."""
    causes: dict[LaneId, dict[str, int]] = defaultdict(dict)
    for group in stuck:
        if group.state is State.DEAD:
            causes[group.lane.id][group.problem] = group.entries
    found = []
    for b in backlogs:
        if stopped := _stopped(b):
            found.append(stopped)
        if b.dead:
            found.append(_dead(b, causes[b.lane.id]))
    return found


def by_cause(items: Sequence[AttentionItem]) -> list[AttentionItem]:
    """The items with those of one connection and cause as one, in the place of the first, which
    says what waits. Its key does not depend on how many they are."""
    causes: dict[str, list[AttentionItem]] = {}
    for item in items:
        causes.setdefault(_cause(item), []).append(item)
    return [_as_one(key, found) for key, found in causes.items()]


def _cause(item: AttentionItem) -> str:
    if item.affected is None or item.problem is None:
        return item.key
    # Both remote sides may be away with the same code.
    side = f" {item.remote}" if item.problem.waits_for_remote else ""
    return f"cause {item.affected.connection} {item.problem}{side}"


def _as_one(key: str, items: Sequence[AttentionItem]) -> AttentionItem:
    first = items[0]
    affected = [item.affected for item in items if item.affected]
    if len(items) > 1 and first.problem:
        details = dict.fromkeys(x.detail for x in affected if x.detail)
        if len(details) > 1:
            details = dict.fromkeys(f"{x.work}: {x.detail}" for x in affected if x.detail)
        works = list(dict.fromkeys(x.work for x in affected if x.work))
        waits = f"; {listed(works)} wait" if works else ""
        why = f": {'; '.join(details)}" if details else ""
        # The meaning of what waits for a remote side does not name it.
        to = f" → {first.remote}" if first.waits and first.remote else ""
        text = f"{affected[0].connection}{to}: {first.problem.meaning}{waits}{why}"
        first = replace(
            first,
            text=text,
            since=min((x.since for x in items if x.since is not None), default=None),
            retry_in=min((x.retry_in for x in items if x.retry_in is not None), default=None),
        )
    return replace(first, key=key)


def _stopped(b: Backlog) -> AttentionItem | None:
    label, problem = b.lane.title, b.state.problem
    if b.state.mode == "running" or problem is None or problem in _NO_ALERT:
        return None
    why = f": {b.state.detail}" if b.state.detail else ""
    return AttentionItem(
        f"lane {label}",
        f"{label} is {b.state.mode}: {problem.meaning}{why}",
        problem,
        since=b.state.since or None,
        remote=b.lane.destination,
        affected=Affected(b.lane.connection, b.lane.lane_kind.work, b.state.detail),
    )


def _dead(b: Backlog, causes: Mapping[str, int]) -> AttentionItem:
    """Entries that died. Their cause is named where all have the same; else the causes are listed,
    where they are known."""
    kind, label = b.lane.lane_kind, b.lane.title
    text = f"{label}: {counted(b.dead, kind.dead_noun)}"
    if len(causes) == 1:
        [code] = causes
        problem = Problem.from_code(code)
        text = f"{text}: {problem.meaning}"
        return AttentionItem(f"dead {label}", text, problem, kind.advice(problem))
    if causes:
        listed = [f"{count:,} {code}" for code, count in sorted(causes.items())]
        text += f" ({', '.join(listed)})"
    return AttentionItem(f"dead {label}", text, todo=kind.dead_remedy)


def of_approval(approval: Approval) -> AttentionItem:
    text = f"{approval.connection}: {approval.what} of {approval.subject} waits for your approval"
    commands = f"with `connector approvals approve {approval.id}` or `reject {approval.id}`"
    todo = f"approve or reject {by(Page.NEEDS_YOU, commands)}"
    return AttentionItem(f"approval {approval.id}", text, todo=todo)
