"""An event as Klaviyo's JSON, and a check of every limit that Klaviyo would refuse it for.

Shapes: Klaviyo's reference of `create_event` and `bulk_create_events`, revision 2026-10-15.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import orjson

from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.messages import EventMessage, Fault
from connector.klaviyo.limits import (
    ARRAY_MAX,
    BULK_EVENTS,
    BULK_EVENTS_MAX,
    DEPTH_MAX,
    EARLIEST_TIME,
    MAX_FUTURE,
    METRIC_NAME_MAX,
    PROPERTIES_MAX,
    STRING_MAX,
    UNIQUE_ID_MAX,
)
from connector.klaviyo.sink.batches import Envelope

ENVELOPE = Envelope(
    endpoint=BULK_EVENTS,
    max_items=BULK_EVENTS_MAX,
    head=b'{"data":{"type":"event-bulk-create-job","attributes":{"events-bulk-create":{"data":[',
    tail=b"]}}}}",
    pointer="/data/attributes/events-bulk-create/data/",
    key="unique_id",
)
_CONTAINERS = (dict, list)
_SHALLOW = 10 + DEPTH_MAX - 1
"""A body with so few brackets has no value that is too deep: 10 are around the values."""


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
        "time": _time(message.occurred_at),
        "unique_id": message.unique_id,
        "metric": {"data": {"type": "metric", "attributes": {"name": message.metric}}},
    }
    if message.value is not None:
        attributes["value"] = message.value
    if backfill:
        attributes["backfill"] = True
    return attributes


def _time(millis: int) -> datetime | str:
    """Whole seconds, the precision of Klaviyo's event time, which the encoder writes as ISO 8601;
    a time that no calendar has as ms, so that `validate` can name it."""
    try:
        return datetime.fromtimestamp(millis // 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{millis} ms"


def _profile(message: EventMessage) -> dict[str, Any]:
    return {"data": {"type": "profile", "attributes": {**message.attributes, **message.identity}}}


def validate(message: EventMessage, encoded: bytes, now: Millis) -> Fault | None:
    """The first of Klaviyo's limits that this event breaks, and what was found.

    Cheap for the usual event: a body under 8,000 bytes has no long string and no long array, and
    one with few brackets is not deep.
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
    if not EARLIEST_TIME <= message.occurred_at <= now + MAX_FUTURE:
        found = _time(message.occurred_at)
        text = found if isinstance(found, str) else found.isoformat()
        return Fault(Problem.TIME_OUT_OF_RANGE, f"the event's time is {text}")
    if len(encoded) > ENVELOPE.max_bytes:
        return Fault(
            Problem.RECORD_TOO_LARGE, f"{len(encoded)} bytes, {ENVELOPE.max_bytes} allowed"
        )
    if len(encoded) < 2 * ARRAY_MAX and (_is_shallow(encoded) or not _too_deep(message)):
        return None
    return validate_values(message)


def _is_shallow(encoded: bytes) -> bool:
    return encoded.count(b"{") + encoded.count(b"[") <= _SHALLOW


def _too_deep(message: EventMessage) -> bool:
    return _deeper_than(message.properties.values(), DEPTH_MAX - 1) or _deeper_than(
        message.attributes.values(), DEPTH_MAX
    )


def _deeper_than(values: Iterable[Any], levels: int) -> bool:
    for value in values:
        if isinstance(value, _CONTAINERS):
            parts = value.values() if isinstance(value, dict) else value
            if levels == 0 or _deeper_than(parts, levels - 1):
                return True
    return False


def validate_values(message: EventMessage) -> Fault | None:
    """The first value of the event that is too long or too deep, however deep it is."""
    if fault := _validate_nested(message.properties, 1, "properties"):
        return fault
    for name, value in message.attributes.items():
        if fault := _validate_nested(value, 1, f"profile.{name}"):
            return fault
    return None


def _validate_nested(value: Any, depth: int, path: str) -> Fault | None:
    if isinstance(value, str):
        size = len(value) if value.isascii() else len(value.encode(errors="surrogatepass"))
        if size > STRING_MAX:
            return Fault(Problem.STRING_TOO_LONG, f"{path}: {size} bytes, {STRING_MAX} allowed")
        return None
    if not isinstance(value, dict | list):
        return None
    if depth > DEPTH_MAX:
        return Fault(Problem.NESTED_TOO_DEEP, f"{path}: more than {DEPTH_MAX} levels")
    if isinstance(value, list):
        if len(value) > ARRAY_MAX:
            return Fault(Problem.ARRAY_TOO_LONG, f"{path}: {len(value)} items, {ARRAY_MAX} allowed")
        parts = ((child, f"{path}[{i}]") for i, child in enumerate(value))
    else:
        parts = ((child, f"{path}.{key}") for key, child in value.items())
    for child, child_path in parts:
        if fault := _validate_nested(child, depth + 1, child_path):
            return fault
    return None
