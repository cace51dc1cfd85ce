"""A support bundle contains no secret, whatever the state of configuration and store."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import stat
import zipfile
from pathlib import Path

import pytest

from .conftest import Call, CommandResult, Folder

SECRETS = {
    "CONSOLE": "console-s3cr3t",
    "VIEWER": "viewer-s3cr3t",
    "TOKEN": "api-token-s3cr3t",
    "FERNET": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTMyYiE=",
    "CLIENT": "oauth-client-s3cr3t",
    "HOOK": "https://hooks.example/T0/hook-s3cr3t",
    "FLOW": "flow-s3cr3t",
    "JERI": "jeri_api_s3cr3t",
    "SIGN": "jeri_sign_s3cr3t",
}
ADDRESSES = ("ada.lovelace@example.com", "+4915112345678")
EVERYTHING = {
    "README.txt",
    "versions.json",
    "config.toml",
    "check.txt",
    "status.json",
    "requests.json",
    "store.json",
    "health.txt",
    "metrics.txt",
}


def plant(folder: Folder) -> str:
    """Put secrets into every key that accepts one, addresses into the store; returns the key."""
    key = "pk_planted_s3cr3t_key"
    folder.write(key=key)
    text = folder.config.read_text()
    text = text.replace('"jeri_sandbox"', '"${JERI}"').replace('"jeri_webhook_secret"', '"${SIGN}"')
    # A secret in a key that is not for secrets.
    text = text.replace(
        'program = "demo"', 'program = "demo"\npush_url = "https://x.example/${FLOW}"'
    )
    head = """\
[console]
password = "${CONSOLE}"
viewer_password = "${VIEWER}"
api_tokens = ["ci:viewer:${TOKEN}"]
[security]
encryption_key = "${FERNET}"
[klaviyo_app]
client_id = "our-app"
client_secret = "${CLIENT}"
[[notify]]
url = "${HOOK}"
"""
    folder.config.write_text(head + text + '\n[connections.actions]\nsecret = "${FLOW}"\n')
    env = "".join(f"{name}={value}\n" for name, value in SECRETS.items())
    (folder.path / ".env").write_text(env)
    folder.ingest(*ADDRESSES)
    with contextlib.closing(sqlite3.connect(folder.store)) as store:
        store.execute("UPDATE lanes SET detail = ?", (f"{key}: {ADDRESSES[0]} was refused",))
        store.commit()
    return key


def open_bundle(folder: Folder, result: CommandResult) -> dict[str, str]:
    """The files of the bundle, checked for secrets and addresses."""
    assert (result.code, result.err) == (0, "")
    path = folder.path / "bundle.zip"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    for name, text in files.items():
        for secret in ("s3cr3t", SECRETS["FERNET"], *ADDRESSES):
            assert secret not in text, name
    return files


def test_without_a_daemon_it_contains_the_stores_data(call: Call, folder: Folder) -> None:
    plant(folder)
    files = open_bundle(folder, call("support-bundle", "bundle.zip", at=folder))
    assert set(files) == EVERYTHING
    assert not [name for name, text in files.items() if text.startswith("not available")]
    assert 'name = "acme"' in files["config.toml"]
    assert 'private_key = "***"' in files["config.toml"]
    [lane] = json.loads(files["status.json"])["connections"]["acme"]["lanes"]
    assert lane["ready"] == len(ADDRESSES)
    store = json.loads(files["store.json"])
    assert store["rows"]["outbox"] == len(ADDRESSES)
    assert store["revision"] == store["needed"]
    versions = json.loads(files["versions.json"])
    assert versions["libraries"]["sqlalchemy"]
    assert "ok store" in files["check.txt"]
    assert "no answer" in files["health.txt"]


def test_with_a_daemon_it_contains_metrics_and_recent_requests(call: Call, folder: Folder) -> None:
    plant(folder)
    text = folder.config.read_text()
    folder.config.write_text(text.replace("pk_planted_s3cr3t_key", "pk_sandbox"))
    folder.start()
    headers, body = folder.platforms.traffic.make_event()
    folder.request("POST", "/webhooks/acme", body, headers)
    files = open_bundle(folder, call("support-bundle", "bundle.zip", at=folder))
    assert set(files) == EVERYTHING
    assert "connector_build_info" in files["metrics.txt"]
    assert "/livez: (200" in files["health.txt"]
    assert json.loads(files["status.json"])["holder"]
    for request in json.loads(files["requests.json"]):
        assert "@" not in request["endpoint"]


def test_with_a_broken_configuration_it_reports_the_faults(call: Call, folder: Folder) -> None:
    plant(folder)
    text = folder.config.read_text()
    folder.config.write_text(text.replace('min_free = "1MB"', 'min_free = "much"'))
    files = open_bundle(folder, call("support-bundle", "bundle.zip", at=folder))
    assert set(files) == {"README.txt", "versions.json", "faults.txt"}
    assert "store.min_free" in files["faults.txt"]


@pytest.mark.parametrize("broken", [True, False])
def test_an_unreadable_or_missing_store_does_not_affect_the_other_files(
    call: Call, folder: Folder, broken: bool
) -> None:
    if broken:
        folder.store.parent.mkdir()
        folder.store.write_bytes(b"not a database " * 400)
    files = open_bundle(folder, call("support-bundle", "bundle.zip", at=folder))
    assert set(files) == EVERYTHING
    assert ("S50" if broken else "no store") in files["status.json"]
    assert 'name = "acme"' in files["config.toml"]
    assert folder.store.exists() == broken


def test_it_overwrites_nothing(call: Call, folder: Folder) -> None:
    (folder.path / "bundle.zip").write_text("precious")
    result = call("support-bundle", "bundle.zip", at=folder)
    assert result.code == 2
    assert (folder.path / "bundle.zip").read_text() == "precious"
    assert Path("bundle.zip").name in result.err
