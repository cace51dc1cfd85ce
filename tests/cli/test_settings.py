"""Settings at run time: by command, with and without a daemon, in effect at once, audited,
exported."""

from __future__ import annotations

import asyncio
import json
import tomllib
import zipfile
from pathlib import Path
from typing import cast

import pytest

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.cli.format import format_time
from connector.config import load
from connector.domain.errors import ConfigError
from connector.mapping import load as load_mapping
from connector.platforms.registry import SettingsModels
from connector.service.settings import effective_config
from connector.store.sql import open_store
from tests.waiting import until

from .conftest import Call, Folder

KEY = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
OTHER_KEY = "b29vb29vb29vb29vb29vb29vb29vb29vb29vb29vb28="


def shown(call: Call, folder: Folder) -> dict[str, object]:
    """The connection `acme` in `connector config show`."""
    result = call("config", "show", at=folder)
    assert result.code == 0, result.err
    [acme] = tomllib.loads(result.out)["connections"]
    return dict(acme)


def post(folder: Folder) -> None:
    """The platform posts an event to the daemon."""
    headers, body = folder.platforms.traffic.make_event()
    status, text = folder.request("POST", "/webhooks/acme", body, headers)
    assert status == 202, text


def skipped(folder: Folder) -> bool:
    metrics = folder.request("GET", "/metrics")[1]
    return any(
        line.startswith("connector_records_skipped_total{") and not line.endswith(" 0.0")
        for line in metrics.splitlines()
    )


def audit(call: Call, folder: Folder) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(call("audit", "--json", at=folder).out)
    return found


def with_key(folder: Folder, key: str) -> None:
    folder.config.write_text(f"[security]\nencryption_key = {key}\n" + folder.config.read_text())


@pytest.mark.parametrize("daemon", [False, True])
def test_modules_are_switched_by_command(call: Call, folder: Folder, daemon: bool) -> None:
    if daemon:
        folder.start()
    result = call("modules", "acme", "off", "segments", "actions", at=folder)
    assert (result.code, result.out) == (0, "acme: events, profiles, audiences\n")
    assert shown(call, folder)["modules"] == ["events", "profiles", "audiences"]
    result = call("modules", "acme", "on", "actions", at=folder)
    assert result.out == "acme: events, profiles, audiences, actions\n"
    newest, older = audit(call, folder)
    assert call("audit", at=folder).out.startswith(format_time(cast(int, newest["at"])))
    assert newest["before"] == ["events", "profiles", "audiences"]
    assert newest["after"] == ["events", "profiles", "audiences", "actions"]
    assert older["before"] == ["events", "profiles", "audiences", "segments", "actions"]
    assert newest["what"] == "setting_changed"
    assert newest["subject"] == "modules"
    assert newest["by"]
    unknown = call("modules", "acme", "off", "event", at=folder)
    assert unknown.code == 2
    assert 'found "event", allowed events' in unknown.out + unknown.err


def test_a_change_is_in_effect_in_the_running_daemon_and_after_a_restart(
    call: Call, folder: Folder
) -> None:
    process = folder.start()
    assert call("config", "set", "acme", "mode", "shadow", at=folder).code == 0
    post(folder)
    until("the event is skipped", lambda: skipped(folder))
    process.terminate()
    process.communicate(timeout=90)
    folder.start()
    assert shown(call, folder)["mode"] == "shadow"
    assert call("config", "unset", "acme", "mode", at=folder).code == 0
    assert shown(call, folder)["mode"] == "live"
    assert folder.delivered() == 0


def test_what_a_file_sets_is_changed_there_only(call: Call, folder: Folder) -> None:
    folder.config.write_text(
        folder.config.read_text().replace(
            'source = "jericommerce"', 'source = "jericommerce"\nmode = "live"'
        )
    )
    result = call("config", "set", "acme", "mode", "shadow", at=folder)
    assert result.code == 2
    assert "connections.acme.mode: found in a file" in result.err
    assert not folder.store.exists() or all(entry["error"] for entry in audit(call, folder))


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("mode", "sideways", 'connections.acme.mode: found "sideways"'),
        ("modules", '["dancing"]', "connections.acme.modules"),
        ("port", "1", "not settable at run time"),
        ("audiences", '[{ audience = "x" }]', "connections.acme.audiences[0].list"),
        ("mapping.profile.fields.nonsense.enabled", "true", "no such entry"),
        ("mapping.profile.fields.balance.enabled", "maybe", "true or false"),
    ],
)
def test_a_wrong_setting_is_refused_and_nothing_changes(
    call: Call, folder: Folder, key: str, value: str, fault: str
) -> None:
    result = call("config", "set", "acme", key, value, at=folder)
    assert result.code == 2
    assert fault.replace("[0]", ".0") in result.err
    assert all(entry["error"] for entry in audit(call, folder))


def test_a_setting_that_the_connections_cannot_use_is_taken_back(folder: Folder) -> None:
    """Two connections that write one metric at one account are found when they are built."""
    text = folder.config.read_text()
    second = text[text.index("[[connections]]") :].replace('"acme"', '"other"')
    shadow = second.replace("[connections.settings]", "enabled = true\n[connections.settings]", 1)
    folder.config.write_text(text + shadow)

    async def check() -> None:
        app = App(read_config(folder.config), reread=lambda: read_config(folder.config))
        with pytest.raises(ConfigError):
            await app.start()
        await app.stop()
        store = await open_store(f"sqlite:///{folder.store}")
        await store.aclose()

    asyncio.run(check())

    async def change() -> None:
        config = text + shadow.replace('mapping = "', 'mode = "shadow"\nmapping = "')
        folder.config.write_text(config.replace('name = "acme"\n', 'name = "acme"\n'))
        app = App(read_config(folder.config), reread=lambda: read_config(folder.config))
        await app.start()
        try:
            done, _ = await app.commands.execute(
                "settings", {"connection": "acme", "set": {"mode": "shadow"}}, by="ana"
            )
            assert done
            folder.config.write_text(text + shadow)
            done, result = await app.commands.execute(
                "settings", {"connection": "acme", "unset": ["mode"]}, by="ana"
            )
            assert not done
            assert result["faults"]
            assert app.config.connection("acme").mode == "shadow"
            [setting] = await app.store.settings.all()
            assert (setting.key, setting.value) == ("mode", "shadow")
        finally:
            await app.stop()

    asyncio.run(change())


def test_a_mapping_entry_is_switched_off_above_the_file(call: Call, folder: Folder) -> None:
    folder.start()
    key = 'mapping.events.metrics."Balance changed".enabled'
    result = call("config", "set", "acme", key, "false", at=folder)
    assert result.code == 0, result.err
    for _ in range(40):
        post(folder)
    until("an event is skipped", lambda: skipped(folder))
    assert key in call("config", "show", at=folder).out


def test_a_secret_is_sealed_everywhere_and_survives_a_new_key(call: Call, folder: Folder) -> None:
    with_key(folder, f'"{KEY}"')
    folder.config.write_text(folder.config.read_text().replace('private_key = "pk_sandbox"\n', ""))
    assert call("check", "--offline", at=folder).code == 2
    result = call("config", "set", "acme", "klaviyo.private_key", "pk_sandbox", at=folder)
    assert result.code == 0, result.err
    folder.ingest("ada@example.com")
    process = folder.start()
    until("the event is delivered", folder.delivered)
    result = call("config", "set", "acme", "klaviyo.private_key", "pk_second", at=folder)
    assert result.code == 0, result.err
    process.terminate()
    process.communicate(timeout=90)
    written = b"".join(f.read_bytes() for f in folder.store.parent.iterdir())
    assert b"pk_sandbox" not in written
    assert b"pk_second" not in written
    entries = json.dumps(audit(call, folder))
    assert "pk_" not in entries
    assert '"***"' in entries
    text = folder.config.read_text()
    folder.config.write_text(text.replace(f'"{KEY}"', f'["{OTHER_KEY}", "{KEY}"]'))
    process = folder.start()
    process.terminate()
    process.communicate(timeout=90)
    folder.config.write_text(text.replace(KEY, OTHER_KEY))
    assert shown(call, folder)["klaviyo"]["private_key"] == "***"  # type: ignore[index]
    folder.config.write_text(text.replace(KEY, KEY.replace("a2", "YW")))
    lost = call("config", "show", at=folder)
    assert lost.code == 2
    assert "connections.acme.klaviyo.private_key" in lost.err
    assert "encryption_key" in lost.err


def test_several_changes_may_be_needed_to_complete_a_configuration(
    call: Call, folder: Folder
) -> None:
    with_key(folder, f'"{KEY}"')
    text = folder.config.read_text().replace('private_key = "pk_sandbox"\n', "")
    folder.config.write_text(text.replace('api_key = "jeri_sandbox"\n', ""))
    first = call("config", "set", "acme", "settings.api_key", "jeri_sandbox", at=folder)
    assert first.code == 0, first.err
    wrong = call("config", "set", "acme", "mode", "sideways", at=folder)
    assert wrong.code == 2
    assert "private_key" not in wrong.err
    second = call("config", "set", "acme", "klaviyo.private_key", "pk_sandbox", at=folder)
    assert second.code == 0, second.err
    assert call("config", "show", at=folder).code == 0


def test_a_support_bundle_has_what_was_set_at_run_time_and_no_secret(
    call: Call, folder: Folder, tmp_path: Path
) -> None:
    with_key(folder, f'"{KEY}"')
    folder.config.write_text(folder.config.read_text().replace('private_key = "pk_sandbox"\n', ""))
    assert call("config", "set", "acme", "klaviyo.private_key", "pk_planted", at=folder).code == 0
    file = tmp_path / "bundle.zip"
    result = call("support-bundle", str(file), at=folder)
    assert result.code == 0, result.err
    with zipfile.ZipFile(file) as bundle:
        texts = {name: bundle.read(name).decode() for name in bundle.namelist()}
    assert "faults.txt" not in texts
    assert "connections.acme.klaviyo.private_key (" in texts["config.toml"]
    assert not [name for name, text in texts.items() if "pk_planted" in text or KEY in text]


def test_a_secret_without_an_encryption_key_is_refused(call: Call, folder: Folder) -> None:
    folder.config.write_text(folder.config.read_text().replace('private_key = "pk_sandbox"\n', ""))
    result = call("config", "set", "acme", "klaviyo.private_key", "pk_sandbox", at=folder)
    assert result.code == 1
    assert "encryption_key is empty" in result.err


def test_commands_are_audited_without_personal_data(call: Call, folder: Folder) -> None:
    folder.start()
    call("pause", "acme", at=folder)
    folder.ingest("ada@example.com")
    call("resume", "acme", at=folder)
    until("the event is delivered", folder.delivered)
    assert call("forget", "acme", "ada@example.com", "--yes", at=folder).code == 0
    for person in ("eva@example.com", "customer-4711"):
        assert call("refresh", "acme", person, at=folder).code == 1
    found = audit(call, folder)
    tried = [(entry["what"], bool(entry["error"])) for entry in found]
    failed, done = [("refresh", True)] * 2, [("forget", False), ("resume", False), ("pause", False)]
    assert tried == [*failed, *done]
    written = json.dumps(found) + call("audit", at=folder).out
    assert not any(name in written for name in ("ada@", "eva@", "4711"))
    assert "pause  acme" in written
    assert "refresh  acme  failed: acme has no person with this address or id" in written


def test_an_exported_folder_has_the_same_effective_configuration(
    call: Call, folder: Folder, tmp_path: Path
) -> None:
    with_key(folder, f'"{KEY}"')
    assert call("config", "set", "acme", "mode", "shadow", at=folder).code == 0
    key = "mapping.profile.fields.balance.enabled"
    assert call("config", "set", "acme", key, "false", at=folder).code == 0
    links = '[{ audience = "vip", list = "VIP", every = "10m" }]'
    assert call("config", "set", "acme", "audiences", links, at=folder).code == 0
    new = tmp_path / "exported"
    result = call("config", "export", str(new), at=folder)
    assert result.code == 0, result.err
    assert "pk_sandbox" not in (new / "connector.toml").read_text()
    assert "ACME_KLAVIYO_PRIVATE_KEY" in result.out
    environ = {
        "ACME_KLAVIYO_PRIVATE_KEY": "pk_sandbox",
        "ACME_SETTINGS_API_KEY": "jeri_sandbox",
        "ACME_SETTINGS_WEBHOOK_SECRET": "jeri_webhook_secret",
        "SECURITY_ENCRYPTION_KEY": KEY,
    }
    again = load(new / "connector.toml", environ=environ, settings_models=SettingsModels())

    async def effective() -> object:
        store = await open_store(f"sqlite:///{folder.store}")
        config = effective_config(read_config(folder.config), await store.settings.all())
        await store.aclose()
        return config

    before = asyncio.run(effective())
    old, now = before.connection("acme"), again.connection("acme")  # type: ignore[attr-defined]
    assert now.model_dump(exclude={"mapping"}) == old.model_dump(exclude={"mapping"})
    assert again.store == before.store  # type: ignore[attr-defined]
    versions = {load_mapping(c.mapping, c.mapping_changes).mapping.version for c in (old, now)}
    assert len(versions) == 1
    assert call("config", "export", str(new), at=folder).code == 2, "nothing is overwritten"
    printed = call("config", "export", at=folder)
    assert tomllib.loads(printed.out)["connections"][0]["mode"] == "shadow"


@pytest.mark.parametrize("daemon", [False, True])
def test_a_connection_is_made_by_command_and_completed(
    call: Call, folder: Folder, daemon: bool
) -> None:
    with_key(folder, f'"{KEY}"')
    if daemon:
        folder.start()
    made = call("config", "add", "shop", "yotpo", "enabled=false", 'settings.guid="g-1"', at=folder)
    assert made.code == 0, made.err
    for key, value in (("settings.api_key", "yk"), ("klaviyo.private_key", "pk_shop")):
        assert call("config", "set", "shop", key, value, at=folder).code == 0
    assert call("config", "set", "shop", "settings.rate_per_second", "3", at=folder).code == 0
    assert call("config", "set", "shop", "enabled", "true", at=folder).code == 0
    found = tomllib.loads(call("config", "show", at=folder).out)["connections"]
    [shop] = [connection for connection in found if connection["name"] == "shop"]
    assert (shop["enabled"], shop["settings"]["rate_per_second"]) == (True, 3.0)
    assert shop["settings"]["api_key"] == "***"
    by_key = {entry["subject"]: entry["after"] for entry in audit(call, folder)}
    assert by_key["settings.rate_per_second"] == 3
    assert by_key["settings.api_key"] == "***"
    again = call("config", "add", "shop", "yotpo", at=folder)
    assert again.code == 2
    assert "exists already" in again.err
