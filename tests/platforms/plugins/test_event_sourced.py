"""Fields that an event's own body sets: extracted at intake, sent without a read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from connector.app.configuration import read_config
from connector.domain.lanes import LaneId, Millis
from connector.domain.records import Record
from connector.mapping import compile_mapping
from connector.pipeline.profile_reads import EventFieldExtractor
from connector.tools.previews import preview

from .daemon import running

MAPPING = """
version = 1
source = "http"

[profile.fields.tier]
type = "string"
trusted = { "tier.changed" = "event.properties.tier" }

[profile.fields.wallet_pass]
from_event = { "pass.installed" = "installed", "pass.removed" = "removed" }

[profile.fields.last_scan]
type = "datetime"
trusted = { "card.scanned" = "event.time" }
"""
CONFIG = """
[store]
url = "sqlite:///state/connector.db"

[server]
port = 0
shutdown_timeout = "1s"

[[connections]]
name = "acme"
source = "http"
mapping = "own.toml"

[connections.settings]
webhook_secret = "s3cret"

[connections.klaviyo]
base_url = "${KLAVIYO_BASE_URL}"
private_key = "pk_sandbox"
"""
NOW = 1_767_225_600


def event(id: str, name: str, at: int = NOW, **properties: Any) -> bytes:
    who = {"person": "m-7", "email": "ana@example.com"}
    body = {"id": id, "name": name, "time": at, **who, "properties": properties}
    return orjson.dumps(body)


async def test_a_platform_that_cannot_be_read_still_fills_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.toml").write_text(MAPPING)
    async with running(tmp_path, CONFIG, {}, {}, monkeypatch) as daemon:
        assert daemon.app.runtimes["acme"].reads is None
        for body in (
            event("1", "tier.changed", NOW + 5, tier="Gold"),
            event("2", "tier.changed", NOW, tier="Silver"),
            event("3", "pass.installed", NOW),
            event("4", "card.scanned", NOW + 9),
            event("5", "tier.changed", NOW + 8, tier=""),
            event("6", "something.else", NOW + 8, tier="Bronze"),
        ):
            assert (await daemon.post("acme", body, {}, "s3cret"))[0] == 202
        wanted = {
            "tier": "Gold",
            "wallet_pass": "installed",
            "last_scan": "2026-01-01T00:00:09+00:00",
        }
        await daemon.until(lambda: daemon.properties("ana@example.com") == wanted)
        await daemon.post("acme", event("7", "pass.removed", NOW + 20), {}, "s3cret")
        wanted["wallet_pass"] = "removed"
        await daemon.until(lambda: daemon.properties("ana@example.com") == wanted)
        assert (await daemon.get("/healthz"))[0] == 200


async def test_event_sourced_fields_are_sent_while_the_event_lane_is_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.toml").write_text(MAPPING)
    async with running(tmp_path, CONFIG, {}, {}, monkeypatch) as daemon:
        await daemon.app.runtimes["acme"].events.stop(1.0)
        await daemon.post("acme", event("1", "pass.installed"), {}, "s3cret")
        wanted = {"wallet_pass": "installed"}
        await daemon.until(lambda: daemon.properties("ana@example.com") == wanted, 8.0)
        assert daemon.klaviyo.recorded("http:1") == 0


def make_extractor(*, partial: bool = True, view: Any = None) -> EventFieldExtractor:
    def plain(name: str, at: int, body: dict[str, Any], email: str | None) -> dict[str, Any]:
        shown = {"event": {"name": name, "time": body["t"], "properties": body}, "raw": body}
        return shown | ({"email": email} if email else {})

    return EventFieldExtractor(
        compile_mapping(MAPPING),
        view or plain,
        lane=LaneId(1),
        account="A",
        email_change="new",
        partial=partial,
    )


def record(name: str, *, at: int = 1_000, email: str | None = "a@b.co", **body: Any) -> Record:
    data = json.dumps({"t": "2026-01-01T00:00:00Z", **body}).encode()
    return Record("k", "x:k", name, Millis(at), data, person="p", email=email)


def test_observed_at_is_the_events_time_and_never_after_receipt() -> None:
    for at, received, then in ((1_000, 5_000, 1_000), (9_000, 5_000, 5_000)):
        observation = make_extractor().observation(record("pass.removed", at=at), Millis(received))
        assert observation
        assert (observation.at, observation.since, observation.changes) == (
            then,
            received,
            {"wallet_pass": "removed"},
        )
        assert observation.identity == {"email": "a@b.co"}


@pytest.mark.parametrize(
    "event",
    [record("tier.changed"), record("tier.changed", tier="-"), record("other", tier="Gold")],
)
def test_an_event_without_the_field_sets_and_unsets_nothing(event: Record) -> None:
    assert make_extractor().observation(event, Millis(0)) is None
    known = make_extractor(partial=False).observation(event, Millis(0))
    assert known
    assert known.changes == {}


def test_a_failing_view_loses_no_event() -> None:
    def broken(*_: Any) -> dict[str, Any]:
        raise RuntimeError

    assert make_extractor(view=broken).observation(record("pass.removed"), Millis(0)) is None


def test_preview_shows_event_sourced_fields(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(MAPPING)
    file = tmp_path / "connector.toml"
    file.write_text(CONFIG.replace("${KLAVIYO_BASE_URL}", "http://127.0.0.1"))
    config = read_config(file)
    file_of_record = tmp_path / "record.json"
    file_of_record.write_text(
        json.dumps({"record": json.loads(event("1", "tier.changed", tier="Gold"))})
    )
    events, profile = preview(config, config.connections[0], file_of_record)
    assert events["request"].endswith("/api/events")
    assert profile["request"].endswith("/api/profile-import")
    attributes = profile["body"]["data"]["attributes"]
    assert attributes == {"email": "ana@example.com", "properties": {"tier": "Gold"}}
