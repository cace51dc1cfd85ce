"""Two connections that write the same fields or metrics at one Klaviyo account: each would undo the
other's work, and a flow on the metric could not distinguish their events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from connector.mapping.render import CompiledMapping

_NAMED = 3
"""Names in a message: connections of one platform share all of theirs."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A connection that sends. `accounts` are all identifiers of its Klaviyo account that are known
    here: its id, and the key; `events` and `profiles` say which of them the connection sends."""

    connection: str
    accounts: frozenset[str]
    mapping: CompiledMapping
    events: bool = True
    profiles: bool = True

    @property
    def metrics(self) -> set[str]:
        """The metrics of named events."""
        rules = self.mapping.rules.values() if self.events else ()
        return {rule.metric for rule in rules if rule.enabled}

    @property
    def fields(self) -> set[str]:
        """Custom properties and attributes of profiles."""
        mapping = self.mapping
        return {f.name for f in (*mapping.fields, *mapping.attributes)} if self.profiles else set()


def find_conflicts(writers: Sequence[Writer]) -> list[str]:
    """One line for each pair of connections and kind of thing that both write."""
    return [
        fault
        for first, second in combinations(writers, 2)
        if first.accounts & second.accounts
        for fault in _conflicts_between(first, second)
    ]


def _conflicts_between(first: Writer, second: Writer) -> Iterator[str]:
    key, other = f"connections.{second.connection}.mapping", f"connections.{first.connection}"
    if both := sorted(first.fields & second.fields):
        yield (
            f"{key}: found the profile fields {_listed(both)}, which {other} writes to the same "
            "Klaviyo account, allowed: fields of its own; rename them or set enabled = false, in "
            "a mapping file of its own"
        )
    if both := sorted(first.metrics & second.metrics):
        yield (
            f"{key}: found the metrics {_listed(both)}, which {other} sends to the same Klaviyo "
            "account, allowed: metrics of its own; set [events] prefix in a mapping file of its own"
        )


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(f'"{name}"' for name in names[:_NAMED])
    return listed + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
