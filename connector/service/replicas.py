"""The reports of replicas that share a store, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from connector.domain.attention import AttentionItem
from connector.service.process import ConnectionReport, ProcessReport, QuotaUse, RefusedCalls


def merge(reports: Mapping[str, ProcessReport], holders: Mapping[str, str]) -> ProcessReport:
    """`reports` by process, `holders` by resource. A connection is described by the process that
    holds its lease, where one does; any of them may have received calls for it. Of several values
    of one thing the first report's counts."""
    if len(reports) == 1:
        return next(iter(reports.values()))
    names = dict.fromkeys(chain.from_iterable(r.connections for r in reports.values()))
    described = {name: _describes(name, reports, holders) for name in names}
    first = next(iter(reports.values()))
    return first.model_copy(
        update={
            "connections": {
                name: _with_calls(
                    reports[process].connections[name],
                    [r.connections[name] for r in reports.values() if name in r.connections],
                )
                for name, process in described.items()
            },
            "lanes": _lanes(reports, described),
            "quota": _quota(list(reports.values())),
            "attention": _attention(list(reports.values())),
            "since": {
                key: min(r.since[key] for r in reports.values() if key in r.since)
                for key in chain.from_iterable(r.since for r in reports.values())
            },
        }
    )


def _describes(name: str, reports: Mapping[str, ProcessReport], holders: Mapping[str, str]) -> str:
    """The process whose description of a connection counts."""
    know = {process: r.connections[name] for process, r in reports.items() if name in r.connections}
    holding = (process for process, c in know.items() if holders.get(c.lease) == process)
    return next(holding, next(iter(know)))


def _with_calls(of: ConnectionReport, all: Sequence[ConnectionReport]) -> ConnectionReport:
    received = {
        via: max(c.received.get(via, 0) for c in all)
        for via in chain.from_iterable(c.received for c in all)
    }
    refused = {
        reason: _refused([c.refused[reason] for c in all if reason in c.refused])
        for reason in chain.from_iterable(c.refused for c in all)
    }
    skipped = {
        reason: sum(c.skipped.get(reason, 0) for c in all)
        for reason in chain.from_iterable(c.skipped for c in all)
    }
    unattached = sum(c.unattached for c in all)
    return of.model_copy(
        update={
            "received": received,
            "refused": refused,
            "skipped": skipped,
            "unattached": unattached,
        }
    )


def _refused(calls: Sequence[RefusedCalls]) -> RefusedCalls:
    newest = max(calls, key=lambda each: each.last)
    return newest.model_copy(update={"count": sum(each.count for each in calls)})


def _lanes(reports: Mapping[str, ProcessReport], described: Mapping[str, str]) -> dict[int, object]:
    """Those of the process that describes their connection, where it does; rates of others are of
    the time before they lost the lease."""
    found: dict[int, object] = {}
    for process in dict.fromkeys([*described.values(), *reports]):
        for id, lane in reports[process].lanes.items():
            known = found.setdefault(id, lane)
            if getattr(known, "per_second", 0.0) < lane.per_second:
                found[id] = lane
    return found


def _quota(reports: Sequence[ProcessReport]) -> tuple[QuotaUse, ...]:
    """Each account is used by one process at a time: the largest count is the newest."""
    found: dict[tuple[str, str], QuotaUse] = {}
    for use in chain.from_iterable(r.quota for r in reports):
        key = use.account, use.endpoint
        if key not in found or found[key].used < use.used:
            found[key] = use
    return tuple(found.values())


def _attention(reports: Sequence[ProcessReport]) -> tuple[AttentionItem, ...]:
    by_key: dict[str, AttentionItem] = {}
    for item in chain.from_iterable(r.attention for r in reports):
        by_key.setdefault(item.key, item)
    return tuple(by_key.values())
