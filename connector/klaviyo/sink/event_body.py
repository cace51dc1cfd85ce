"""An event as Klaviyo's JSON, and everything that Klaviyo would refuse about it, found before.

Shapes: Klaviyo's reference of `create_event` and `bulk_create_events`, revision 2026-10-15.
"""

from __future__ import annotations

from typing import Any

import orjson

from connector.domain.errors import Problem
from connector.domain.lanes import (
    Millis,
)
from connector.domain.messages import (
    EventMessage,
    Fault,
)
from connector.klaviyo.limits import (
    ARRAY_MAX,
    BULK_EVENTS,
    BULK_EVENTS_MAX,
    DEPTH_MAX,
    EARLIEST,
    LATEST_AHEAD,
    METRIC_NAME_MAX,
    PROPERTIES_MAX,
    STRING_MAX,
    UNIQUE_ID_MAX,
)
from connector.klaviyo.sink.batches import Envelope
from connector.runtime.clock import iso

ENVELOPE = Envelope(
    endpoint=BULK_EVENTS,
    most=BULK_EVENTS_MAX,
    head=b'{"data":{"type":"event-bulk-create-job","attributes":{"events-bulk-create":{"data":[',
    tail=b"]}}}}",
    pointer="/data/attributes/events-bulk-create/data/",
)
_BRACKETS = DEPTH_MAX + 10
"""A single body opens 10 brackets of its own, one of them of `properties`; a group opens more. A
value too deep adds DEPTH_MAX."""


def single(message: EventMessage, *, backfill: bool) -> bytes:
    """The body of POST /api/events."""
    attributes = _attributes(message, backfill)
    attributes["profile"] = _profile(message)
    return orjson.dumps({"data": {"type": "event", "attributes": attributes}})


def item(message: EventMessage, *, backfill: bool) -> bytes:
    """One of the groups of POST /api/event-bulk-create-jobs. One event a group, so that the index
    in an error pointer names the record."""
    return orjson.dumps(
        {
            "type": "event-bulk-create",
            "attributes": {
                "profile": _profile(message),
                "events": {
                    "data": [{"type": "event", "attributes": _attributes(message, backfill)}]
                },
            },
        }
    )


def _attributes(message: EventMessage, backfill: bool) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "properties": message.properties,
        "time": _moment(message.occurred_at),
        "unique_id": message.unique_id,
        "metric": {"data": {"type": "metric", "attributes": {"name": message.metric}}},
    }
    if message.value is not None:
        attributes["value"] = message.value
    if backfill:
        attributes["backfill"] = True
    return attributes


def _moment(millis: int) -> str:
    """A moment that no calendar knows is still written, so that `fault_of` can name it."""
    try:
        return iso(millis)
    except (ValueError, OverflowError, OSError):
        return f"{millis} ms"


def _profile(message: EventMessage) -> dict[str, Any]:
    return {"data": {"type": "profile", "attributes": {**message.attributes, **message.identity}}}


def fault_of(message: EventMessage, encoded: bytes, now: Millis) -> Fault | None:
    """The first limit of Klaviyo's that this event breaks, named with what was found.

    Cheap for the usual event: a body under 8,000 bytes can hold no long string and no long array.
    """
    metric, properties = message.metric, message.properties
    if not 0 < len(metric) <= METRIC_NAME_MAX:
        return Fault(Problem.METRIC_NAME, f"the metric's name has {len(metric)} characters")
    if not 0 < len(message.unique_id) <= UNIQUE_ID_MAX:
        return Fault(Problem.UNIQUE_ID, f"the unique id has {len(message.unique_id)} characters")
    if len(properties) > PROPERTIES_MAX:
        return Fault(
            Problem.TOO_MANY_PROPERTIES, f"{len(properties)} properties, {PROPERTIES_MAX} allowed"
        )
    if not EARLIEST <= message.occurred_at <= now + LATEST_AHEAD:
        found = _moment(message.occurred_at)
        return Fault(Problem.TIME_OUT_OF_RANGE, f"the event's time is {found}")
    if len(encoded) > ENVELOPE.room:
        return Fault(Problem.RECORD_TOO_LARGE, f"{len(encoded)} bytes, {ENVELOPE.room} allowed")
    if len(encoded) < 2 * ARRAY_MAX and encoded.count(b"[") + encoded.count(b"{") < _BRACKETS:
        return None
    if fault := _inside(properties, 1, "properties"):
        return fault
    for name, value in message.attributes.items():
        if fault := _inside(value, 1, f"profile.{name}"):
            return fault
    return None


def _inside(value: Any, depth: int, where: str) -> Fault | None:
    if isinstance(value, str):
        size = len(value) if value.isascii() else len(value.encode())
        if size > STRING_MAX:
            return Fault(Problem.STRING_TOO_LONG, f"{where}: {size} bytes, {STRING_MAX} allowed")
        return None
    if not isinstance(value, dict | list):
        return None
    if depth > DEPTH_MAX:
        return Fault(Problem.NESTED_TOO_DEEP, f"{where}: more than {DEPTH_MAX} levels")
    if isinstance(value, list):
        if len(value) > ARRAY_MAX:
            return Fault(
                Problem.ARRAY_TOO_LONG, f"{where}: {len(value)} items, {ARRAY_MAX} allowed"
            )
        parts = ((child, f"{where}[{i}]") for i, child in enumerate(value))
    else:
        parts = ((child, f"{where}.{key}") for key, child in value.items())
    for child, place in parts:
        if fault := _inside(child, depth + 1, place):
            return fault
    return None
