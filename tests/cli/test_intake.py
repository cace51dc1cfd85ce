"""What arrives, what is refused and what waits shows in `check`, status, /healthz and the log."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.waiting import free_port, until

from .conftest import Call, Folder


def status(call: Call, folder: Folder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call("status", "--json", at=folder).out)
    return found


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ('""', "it is empty, so every webhook is refused with 401"),
        ('"hunter2"', "it has 7 characters and can be guessed; 16 or more are safe"),
        ('["jeri_webhook_secret", "x"]', "it has 1 character and can be guessed"),
    ],
)
def test_check_finds_a_secret_that_is_empty_or_short(
    call: Call, folder: Folder, secret: str, why: str
) -> None:
    text = folder.config.read_text().replace('"jeri_webhook_secret"', secret)
    folder.config.write_text(text)
    result = call("check", "--offline", at=folder)
    assert result.code == 1
    assert f"FAULT   acme: settings.webhook_secret W401: {why}" in result.out
    assert "→ enter the secret of the platform's integration page" in result.out
    folder.config.write_text(text.replace('name = "acme"', 'name = "acme"\nenabled = false'))
    assert call("check", "--offline").code == 0


def test_a_wrong_secret_shows_until_a_webhook_is_accepted(call: Call, folder: Folder) -> None:
    folder.start()
    headers, body = folder.platforms.traffic.make_event()
    wrong = {key: "0" * 64 if "hmac" in key else value for key, value in headers.items()}
    for _ in range(5):
        assert folder.request("POST", "/webhooks/acme", body, wrong)[0] == 401
    until("/healthz", lambda: "W401" in folder.request("GET", "/healthz")[1])
    until("the status", lambda: status(call, folder)["attention"])
    found = status(call, folder)
    [item] = found["attention"]
    assert item["text"].startswith("acme: 5 webhooks refused with 401 and none accepted since")
    assert item["code"] == "W401"
    assert ".env" in item["remedy"]
    acme = found["connections"]["acme"]
    assert acme["last_refusal"]["cause"] == "signature"
    assert (acme["last_refusal"]["problem"], acme["last_refusal"]["in_a_row"]) == ("W401", 5)
    assert acme["last_received"] is None
    text = call("status", at=folder).out
    assert re.search(r"last refusal .* ago: W401 signature, 5 times in a row", text)
    # One line of log for all of them.
    assert folder.log.count("webhook_rejected") == 1
    assert folder.request("POST", "/webhooks/acme", body, headers)[0] == 202
    assert folder.request("GET", "/healthz")[0] == 200
    until("it is well", lambda: status(call, folder)["attention"] == [])
    assert status(call, folder)["connections"]["acme"]["last_received"] is not None


def until_health_has(folder: Folder, code: str) -> None:
    shown: list[object] = []

    def has() -> bool:
        shown[:] = [folder.request("GET", "/healthz"), folder.log]
        return code in str(shown[0])

    try:
        until(f"/healthz has {code}", has)
    except AssertionError as error:
        error.add_note(f"{shown[0]}\n{shown[1]}")
        raise


def test_a_remote_side_that_is_away_is_degraded_and_healthy(call: Call, folder: Folder) -> None:
    text = folder.config.read_text()
    port = free_port()
    away = text.replace(folder.platforms.urls["klaviyo"], f"http://127.0.0.1:{port}")
    folder.config.write_text(away)
    folder.ingest(*(f"p{n}@example.com" for n in range(4)))
    folder.start()
    until("it is degraded", lambda: status(call, folder)["verdict"]["level"] == "degraded")
    found = status(call, folder)
    assert re.match(r"Klaviyo is away, 4 records wait, retrying", found["verdict"]["text"])
    assert found["attention"] == []
    [item] = found["degraded"]
    assert item["code"] == "N20"
    assert "127.0.0.1" in item["text"]
    assert item["since"]
    assert folder.request("GET", "/healthz") == (200, "ok\n")
    lane = found["connections"]["acme"]["lanes"][0]
    assert (lane["state"], lane["problem"]) == ("degraded", "N20")
    folder.config.write_text(away + '\n[[notify]]\nurl = "https://127.0.0.1/x"\npatience = "0s"\n')
    assert call("reload", at=folder).code == 0
    until_health_has(folder, "N20")


def test_a_deleted_store_is_named_by_the_running_daemon(call: Call, folder: Folder) -> None:
    folder.start()
    kept = folder.store.with_name("kept.db")
    folder.store.rename(kept)
    until("it is noticed", lambda: "S70" in folder.request("GET", "/healthz")[1])
    result = call("status", at=folder)
    if result.code == 0:
        assert "S70" in result.out
    else:  # it could make no status, and its health is asked instead
        assert (result.code, result.out) == (1, "")
        assert "the running daemon reports: S70 " in result.err
        assert result.err.count("what to do: ") == 1
    kept.rename(folder.store)
    until("it is back", lambda: call("status", at=folder).code == 0)
