"""Klaviyo's flows: name, status and trigger.

Source: the published spec (statuses, `trigger_type`).
"""

from __future__ import annotations

from dataclasses import dataclass

from connector.sandbox.klaviyo.errors import Refused, errors

TRIGGERS = frozenset(
    ("Added to List", "Date Based", "Low Inventory", "Metric", "Price Drop", "Unconfigured")
)


@dataclass(frozen=True, slots=True)
class Flow:
    """`trigger_target`: the id of a list or segment, or a metric's name; else empty."""

    id: str
    name: str
    status: str
    trigger: str
    trigger_target: str
    archived: bool


class Flows:
    """All flows. `readable`: whether the key has the scope flows:read."""

    def __init__(self) -> None:
        self.all: list[Flow] = []
        self.readable = True

    def add(
        self, name: str, status: str, trigger: str, trigger_target: str, *, archived: bool = False
    ) -> Flow:
        if trigger not in TRIGGERS:
            raise ValueError(f"{trigger!r} is not a trigger of flows")
        flow = Flow(f"F{len(self.all):05d}", name, status, trigger, trigger_target, archived)
        self.all.append(flow)
        return flow

    def require_scope(self) -> None:
        if not self.readable:
            detail = "Your API key does not have the scope flows:read."
            raise Refused(errors(403, [(detail, {"pointer": "/data/"})], code="permission_denied"))

    def started_by(self, trigger_target: str) -> list[Flow]:
        """The flows that this list, segment or metric triggers. Raises Refused without the
        scope."""
        self.require_scope()
        return [flow for flow in self.all if flow.trigger_target == trigger_target]
