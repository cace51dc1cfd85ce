"""`connector preview`: the requests that a record or a person would cause. Sends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from connector.config import Config, Connection
from connector.domain.errors import ConfigError, Malformed, Problem
from connector.domain.lanes import DeliveryMode, LaneId, Millis
from connector.domain.messages import EventMessage, Fault
from connector.domain.profile_state import Profile, changes_from_message, next_write, observe
from connector.domain.profiles import Observation
from connector.domain.records import Entry
from connector.klaviyo import api as klaviyo
from connector.klaviyo.sink import event_body, profile_body
from connector.mapping import CompiledMapping
from connector.mapping import load as load_mapping
from connector.pipeline.rendering import EventRenderer, render_entry
from connector.platforms import registry
from connector.ports import PersonSnapshot, Platform
from connector.runtime.clock import SystemClock
from connector.sync.goals import goals


def preview(config: Config, connection: Connection, file: Path) -> list[dict[str, Any]]:
    """The exact requests: route, headers without the key, body.

    `file` contains `{"name": …, "record": {…}}` or `{"customer": {…}, "extras": {…}}` as in the
    mapping examples, or `{"headers": {…}, "body": {…}}` as a webhook is received. Raises Malformed
    and ConfigError.
    """
    platform = registry.load(connection.source, connection.settings)
    mapping = load_mapping(connection.mapping, connection.mapping_changes).mapping
    sample = _read(file)
    if "customer" in sample and "record" not in sample:
        return [_profile(connection, platform, mapping, sample)]
    return _events(config, connection, platform, mapping, sample)


def _events(
    config: Config,
    connection: Connection,
    platform: Platform,
    mapping: CompiledMapping,
    sample: dict[str, Any],
) -> list[dict[str, Any]]:
    if platform.webhook is None:
        raise ConfigError([f"{platform.title} has no webhooks, so there is nothing to preview"])
    headers = {str(k).lower(): str(v) for k, v in sample.get("headers", {}).items()}
    if "name" in sample:
        headers |= platform.name_header(str(sample["name"]))
    body = orjson.dumps(sample.get("record", sample.get("body", {})))
    now, late_after = SystemClock().now(), config.delivery.late_after
    renderer = EventRenderer(mapping, platform.event_view, None)
    found: list[dict[str, Any]] = []
    for seq, record in enumerate(platform.webhook(connection.settings).parse(headers, body), 1):
        message = render_entry(
            renderer,
            Entry(
                seq=seq,
                unique_id=record.unique_id,
                name=record.name,
                occurred_at=record.occurred_at,
                received_at=now,
                email=record.email,
                person=None,
                data=record.data,
                attempts=1,
                mode=DeliveryMode.BATCH,
                mapping=None,
                backfill=False,
            ),
        )
        if not isinstance(message, EventMessage):
            found.append({"request": None, "why": str(message)})
            continue
        late = late_after is not None and now - record.occurred_at > late_after * 1000
        event = event_body.single(message, backfill=late)
        found.append(_request(connection, "/api/events", event, list(message.notes)))
        if "profiles" in connection.modules and mapping.extracts(record.name):
            body = orjson.loads(record.data)
            view = platform.event_view(record.name, record.occurred_at, body, record.email)
            found.append(_profile_request(connection, mapping, view))
    return found


def _profile(
    connection: Connection, platform: Platform, mapping: CompiledMapping, sample: dict[str, Any]
) -> dict[str, Any]:
    if platform.person_view is None:
        raise ConfigError([f"{platform.title} has no profiles, so there is nothing to preview"])
    view = platform.person_view(sample["customer"], sample.get("extras", {}))
    view = goals(connection.tiers, connection.rewards)(PersonSnapshot(view, frozenset())).view
    return _profile_request(connection, mapping, view)


def _profile_request(
    connection: Connection, mapping: CompiledMapping, view: dict[str, Any]
) -> dict[str, Any]:
    """The request for a person without a confirmed profile at Klaviyo."""
    identity = mapping.identify(view)
    if isinstance(identity, Fault):
        return {"request": None, "why": str(identity)}
    rendered = mapping.render_profile(view)
    at = Millis(1)
    observation = Observation(
        person=0,
        view=view,
        changes=changes_from_message(rendered),
        identity=dict(identity.values),
        at=at,
        mapping=mapping.version,
        lane=LaneId(0),
    )
    write = next_write(observe(Profile(0), observation))
    left_out = [*identity.notes, *rendered.problems]
    if write is None:
        return {"request": None, "why": "no field has a value to send", "left_out": left_out}
    return _request(connection, "/api/profile-import", profile_body.upsert(write), left_out)


def _request(connection: Connection, path: str, body: bytes, left_out: list[str]) -> dict[str, Any]:
    return {
        "request": f"POST {connection.klaviyo.base_url}{path}",
        "headers": klaviyo.headers(connection.klaviyo.revision),
        "body": orjson.loads(body),
        "left_out": left_out,
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        sample = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise Malformed(Problem.WEBHOOK_MALFORMED, f"{file}: {error}") from error
    if not isinstance(sample, dict):
        raise Malformed(Problem.WEBHOOK_MALFORMED, f"{file}: the file must contain a JSON object")
    return sample
