"""`connector check` and `connector preview`: what would happen, found out before it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from connector.adapters import registry
from connector.adapters.klaviyo import api as klaviyo
from connector.adapters.klaviyo.sink import event_body
from connector.clock import SystemClock
from connector.config import Config, Connection
from connector.errors import ConfigError, ConnectorError, Malformed, Problem
from connector.http import is_loopback
from connector.lease import LeaseKeeper, holder_name
from connector.lines import Workshop
from connector.mapping import load as load_mapping
from connector.mapping import run_examples, warnings
from connector.metrics import Metrics
from connector.model import Check, Entry, EventMessage
from connector.rendering import EventRenderer
from connector.store import schema
from connector.store.sql import file_of, open_store


def mapping_checks(path: Path, source: str) -> list[Check]:
    """A mapping file: its faults, its examples, its warnings. Examples are those beside the file,
    in `examples/{source}/`."""
    what = f"mapping {path.name}"
    try:
        mapping = load_mapping(path).mapping
        platform = registry.load(source)
    except ConfigError as error:
        return [Check(what, "fault", fault, error.problem) for fault in error.faults]
    found = [Check(what, "warning", line) for line in warnings(mapping)]
    examples = path.parent / "examples" / source
    if examples.is_dir():
        faults = run_examples(examples, platform.event_view, platform.person_view)
        found += [Check(what, "fault", line, Problem.MAPPING_FAULTY) for line in faults]
    return found or [Check(what, "ok", f"version {mapping.version}")]


async def check(config: Config, *, offline: bool = False) -> AsyncIterator[Check]:
    """Everything that can be looked at without sending anything."""
    for found in await asyncio.to_thread(_store, config.store.url):
        yield found
    if is_loopback(urlsplit(config.server.public_url).hostname or ""):
        yield Check(
            "server.public_url",
            "warning",
            f"{config.server.public_url} cannot be reached from outside this machine",
        )
    for connection in config.connections:
        for found in mapping_checks(connection.mapping, connection.source):
            yield _of(connection, found)
        if not offline and connection.enabled:
            for found in await _klaviyo(config, connection):
                yield _of(connection, found)


def _store(url: str) -> list[Check]:
    path = file_of(url)
    if path and not path.exists():
        return [Check("store", "ok", f"{path} will be made at the first run")]
    faults = schema.check(url)
    return [Check("store", "fault", fault) for fault in faults] or [Check("store", "ok")]


def _of(connection: Connection, check: Check) -> Check:
    return Check(f"{connection.name}: {check.what}", check.level, check.detail, check.problem)


async def _klaviyo(config: Config, connection: Connection) -> Sequence[Check]:
    clock = SystemClock()
    store = await open_store(config.store.url, migrate=config.store.migrate)
    lease = LeaseKeeper(store, clock, holder_name())
    try:
        workshop = Workshop(config, store, lease, clock, Metrics("check"))
        line = await workshop.build(connection)
        try:
            return [found for look in line.checks for found in await look()]
        finally:
            await line.aclose()
    except ConnectorError as error:
        return [Check("connection", "fault", error.detail, error.problem)]
    finally:
        await store.aclose()


def preview(config: Config, connection: Connection, file: Path) -> list[dict[str, Any]]:
    """The exact requests that a record would cause: route, headers without the key, body.

    The file holds either `{"name": …, "record": {…}}`, as the mapping examples do, or
    `{"headers": {…}, "body": {…}}`, as a webhook arrives. Raises Malformed and ConfigError.
    """
    platform = registry.load(connection.source)
    if platform.webhook is None:
        raise ConfigError([f"{platform.title} has no webhooks to preview"])
    said = _read(file)
    headers = {str(k).lower(): str(v) for k, v in said.get("headers", {}).items()}
    if "name" in said:
        headers |= platform.name_header(str(said["name"]))
    body = orjson.dumps(said.get("record", said.get("body", {})))
    clock, late_after = SystemClock(), config.delivery.late_after
    renderer = EventRenderer(load_mapping(connection.mapping).mapping, platform.event_view, None)
    found: list[dict[str, Any]] = []
    for seq, record in enumerate(platform.webhook(connection.settings).parse(headers, body), 1):
        entry = Entry(
            seq, record.unique_id, record.name, record.occurred_at, clock.now(), record.email,
            None, record.data, 1, False, None, False,
        )  # fmt: skip
        message = renderer.render(entry)
        if isinstance(message, EventMessage):
            late = late_after is not None and clock.now() - record.occurred_at > late_after * 1000
            found.append(
                {
                    "request": f"POST {connection.klaviyo.base_url}/api/events",
                    "headers": klaviyo.headers(connection.klaviyo.revision),
                    "body": orjson.loads(event_body.single(message, backfill=late)),
                    "left_out": list(message.notes),
                }
            )
        else:
            found.append({"request": None, "why": str(message)})
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        said = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise Malformed(Problem.WEBHOOK_MALFORMED, f"{file}: {error}") from error
    if not isinstance(said, dict):
        raise Malformed(Problem.WEBHOOK_MALFORMED, f"{file}: must hold a JSON object")
    return said
