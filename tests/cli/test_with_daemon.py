"""The commands while a daemon runs on the store."""

from __future__ import annotations

import hmac
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import structlog

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.domain.errors import StoreError
from tests.waiting import until

from .conftest import ROOT, Call, Folder

EXAMPLES = ROOT / "mappings" / "examples" / "jericommerce"
SECRET = b"jeri_webhook_secret"


def post(daemon: Folder, name: str, body: bytes) -> None:
    headers = {
        "x-jericommerce-event-type": name,
        "x-jericommerce-hmac-sha256": hmac.digest(SECRET, body, "sha256").hex(),
    }
    assert daemon.request("POST", "/webhooks/acme", body, headers)[0] == 202


def test_a_restart_after_a_clean_stop_warns_of_no_holder_that_died(folder: Folder) -> None:
    folder.start()
    folder.stop()
    process = folder.start()
    assert "lease_holder_died" not in folder.log, "the last one has released it"
    process.kill()
    folder.stop()
    folder.start()
    assert "lease_holder_died" in folder.log


def lane(call: Call, daemon: Folder) -> dict[str, Any]:
    result = call("status", "--json", at=daemon)
    assert result.code == 0
    lanes = json.loads(result.out)["connections"]["acme"]["lanes"]
    [found] = [x for x in lanes if x["kind"] == "event"]
    return dict(found)


def test_status_names_the_holder_and_lists_no_attention_items(call: Call, daemon: Folder) -> None:
    status = json.loads(call("status", "--json", at=daemon).out)
    assert "/" in status["holder"]
    assert status["attention"] == []


def test_the_status_of_another_store_is_not_shown(call: Call, daemon: Folder) -> None:
    own = daemon.config.read_text()
    daemon.config.write_text(own.replace("state/cli.db", "state/other.db"))
    try:
        result = call("status", at=daemon)
    finally:
        daemon.config.write_text(own)
    assert (result.code, result.out) == (1, "")
    assert "there is no store at" in result.err


def test_pause_status_resume_with_a_daemon(call: Call, daemon: Folder) -> None:
    assert call("pause", "acme", at=daemon).out == "paused: acme\n"
    assert (lane(call, daemon)["state"], lane(call, daemon)["problem"]) == ("paused", "L40")
    headers, body = daemon.platforms.traffic.make_event()
    assert daemon.request("POST", "/webhooks/acme", body, headers)[0] == 202
    id = f"jericommerce:{json.loads(body)['id']}"
    assert lane(call, daemon)["ready"] == 1
    assert daemon.platforms.klaviyo.recorded(id) == 0
    assert call("resume", "acme", at=daemon).out == "resumed: acme\n"
    until("it is delivered", lambda: daemon.platforms.klaviyo.recorded(id) == 1)
    assert lane(call, daemon)["state"] == "running"


def test_a_detached_command_returns_at_once_and_is_executed(call: Call, daemon: Folder) -> None:
    result = call("pause", "acme", "--detach", at=daemon)
    assert result.code == 0
    assert re.fullmatch(r"command: \d+\n", result.out)
    until("it is paused", lambda: lane(call, daemon)["state"] == "paused")
    assert call("resume", "acme", "--detach", at=daemon).code == 0
    until("it runs again", lambda: lane(call, daemon)["state"] == "running")
    assert call("refresh", "acme", "unknown@example.com", "--detach", at=daemon).code == 0


def test_a_long_running_command_blocks_no_other(call: Call, daemon: Folder) -> None:
    """`reconcile` waits for Klaviyo, which does not respond; a pause is executed meanwhile."""
    headers, body = daemon.platforms.traffic.make_event()
    assert daemon.request("POST", "/webhooks/acme", body, headers)[0] == 202
    klaviyo = daemon.platforms.klaviyo
    id = f"jericommerce:{json.loads(body)['id']}"
    until("it is delivered", lambda: klaviyo.recorded(id) == 1)
    klaviyo.faults.add("profiles", "stall", seconds=3.0, method="GET", applied=True)
    try:
        assert call("reconcile", "acme", "--sample", "1", "--detach", at=daemon).code == 0
        assert call("pause", "acme", at=daemon).out == "paused: acme\n"
        assert call("resume", "acme", at=daemon).code == 0
    finally:
        klaviyo.faults.clear()


def test_a_person_is_read_sent_and_explained(call: Call, daemon: Folder) -> None:
    headers, body = daemon.platforms.traffic.make_event()
    assert daemon.request("POST", "/webhooks/acme", body, headers)[0] == 202
    result = json.loads(body)
    email, klaviyo = result["email"], daemon.platforms.klaviyo
    id = f"jericommerce:{result['id']}"
    until("it is delivered", lambda: klaviyo.recorded(id) == 1)
    person = daemon.platforms.jericommerce.person(email)
    person.change(balance=4321)
    refreshed = call("refresh", "acme", email, at=daemon)
    assert refreshed.code == 0, refreshed.err
    assert re.search(r"balance +confirmed +4321", refreshed.out)
    assert klaviyo.profile(email)["properties"]["balance"] == 4321
    [timeline] = json.loads(call("explain", "acme", result["customerId"], "--json", at=daemon).out)
    events = [m for m in timeline["timeline"] if m["what"] == "event"]
    assert [(m["state"], m["request"]["status"]) for m in events] == [("accepted", 202)]
    assert events[0]["data"] == result
    writes = [m for m in timeline["timeline"] if m["what"] == "write"]
    assert writes[-1]["data"]["sets"]["balance"] == 4321
    assert writes[-1]["request"]["endpoint"] == "POST /api/profile-import"
    assert all(field["confirmed"] for field in timeline["fields"].values())


def test_people_whose_profile_was_refused_are_listed_and_refreshed_by_cause(
    call: Call, daemon: Folder
) -> None:
    assert "nothing waits" in call("people", "list", at=daemon).out
    headers, body = daemon.platforms.traffic.make_event()
    email = json.loads(body)["email"]
    daemon.platforms.jericommerce.person(email).change(balance=1234)
    klaviyo = daemon.platforms.klaviyo
    for endpoint in ("profile-import", "profile-bulk-import-jobs"):
        klaviyo.faults.add(endpoint, "poison", match=email, pointer=True, count=50)
    try:
        assert daemon.request("POST", "/webhooks/acme", body, headers)[0] == 202
        until("its profile is refused", lambda: email in call("people", "list", at=daemon).out)
    finally:
        klaviyo.faults.clear()
    listed = call("people", "list", "--connection", "acme", "--cause", "k400", at=daemon).out
    [line] = listed.splitlines()
    assert re.search(rf"dead +acme profiles → klaviyo  K400 +\S+ {email}  \S", line)
    [found] = json.loads(call("people", "list", "--json", at=daemon).out)
    assert (found["email"], found["problem"], found["state"]) == (email, "K400", "dead")
    status = call("status", at=daemon).out
    assert "`connector people refresh acme --cause K400`" in status
    assert "dead-letters" not in status
    assert call("people", "list", "--cause", "E10", at=daemon).out.startswith("nothing waits")
    refreshed = call("people", "refresh", "acme", "--cause", "K400", at=daemon)
    assert (refreshed.code, refreshed.out) == (0, "requested: 1\n"), refreshed.err
    until("no one is left", lambda: "nothing waits" in call("people", "list", at=daemon).out)
    until("it is written", lambda: klaviyo.profile(email)["properties"]["balance"] == 1234)


def test_an_unknown_person_is_reported(call: Call, daemon: Folder) -> None:
    for command in ("explain", "refresh"):
        result = call(command, "acme", "unknown@example.com", at=daemon)
        assert (result.code, result.out) == (1, "")
        assert "person" in result.err


def test_preview_of_a_person_shows_the_request_for_a_new_profile(
    call: Call, daemon: Folder
) -> None:
    example = EXAMPLES / "profile.json"
    result = json.loads(call("preview", "acme", "--record", str(example), at=daemon).out)
    expected = json.loads(example.read_text())["expect"]["fields"]
    [request] = result
    assert request["request"].endswith("/api/profile-import")
    assert request["body"]["data"]["attributes"]["properties"] == expected


@pytest.mark.parametrize("name", ["balance-changed-up", "tier-upgraded", "unknown-event"])
def test_preview_matches_what_the_same_webhook_sends(
    call: Call, daemon: Folder, tmp_path: Path, name: str
) -> None:
    example = json.loads((EXAMPLES / f"{name}.json").read_text())
    example["record"]["id"] = f"preview-{name}"
    (tmp_path / "record.json").write_text(json.dumps(example))
    result = call("preview", "acme", "--record", str(tmp_path / "record.json"), at=daemon)
    assert (result.code, result.err) == (0, "")
    [shown] = json.loads(result.out)

    sent = daemon.platforms.bodies
    before = len(sent)
    post(daemon, example["name"], json.dumps(example["record"]).encode())
    id = f"preview-{name}"

    def events() -> list[tuple[str, dict[str, str], Any]]:
        return [x for x in sent[before:] if x[0] == "/api/events" and id in json.dumps(x[2])]

    until("Klaviyo was called", lambda: bool(events()))
    [(path, headers, body)] = events()
    assert shown["request"] == f"POST {daemon.platforms.urls['klaviyo']}{path}"
    assert shown["body"] == body
    assert shown["headers"].items() <= headers.items()
    assert "pk_sandbox" not in result.out
    assert "authorization" not in {key.lower() for key in shown["headers"]}


def test_a_retry_skips_a_held_record_and_reports_it(call: Call, daemon: Folder) -> None:
    body = {"id": "held-1", "customerId": "unknown-customer", "createdAt": "2026-01-01T10:00:00Z"}
    post(daemon, "Balance changed", json.dumps(body).encode())
    result = call("dead-letters", "retry", "--cause", "I10", at=daemon)
    assert (result.code, result.out) == (0, "retried: 0, waiting for an address: 1\n")
    [dead_letter] = json.loads(call("dead-letters", "list", "--json", at=daemon).out)
    discarded = call("dead-letters", "discard", str(dead_letter["id"]), "--yes", at=daemon)
    assert discarded.out == "discarded: 1\n"


def test_the_daemon_is_healthy_and_ready(call: Call, daemon: Folder) -> None:
    for words in (["healthcheck"], ["healthcheck", "--ready"]):
        result = call(*words, at=daemon)
        assert (result.code, result.out) == (0, "ok\n")


def test_reload_applies_an_edited_file(call: Call, daemon: Folder) -> None:
    result = call("reload", at=daemon)
    assert (result.code, result.out, result.err) == (0, "reloaded\n", "")


def test_a_rejected_reload_prints_and_logs_every_fault_and_status_shows_it(
    call: Call, daemon: Folder
) -> None:
    good = daemon.mapping.read_text()
    daemon.mapping.write_text(f"fly = true\nswim = 1\n{good}")
    try:
        result = call("reload", at=daemon)
        assert (result.code, result.out) == (2, "")
        faults = [line for line in result.err.splitlines() if "fly" in line or "swim" in line]
        assert len(faults) == 2
        assert all(word in daemon.log for word in ("fly", "swim"))
        assert re.search(r"Needs you\n +C30 ", call("status", at=daemon).out)
    finally:
        daemon.mapping.write_text(good)
    assert call("reload", at=daemon).code == 0
    assert json.loads(call("status", "--json", at=daemon).out)["attention"] == []


def test_a_sighup_that_is_rejected_logs_every_fault(daemon: Folder) -> None:
    good = daemon.config.read_text()
    daemon.config.write_text(f"{good}\n[delivering]\nx = 1\n[retaining]\ny = 1\n")
    process = daemon.processes[0]
    try:
        process.send_signal(signal.SIGHUP)
        until("the reload is rejected", lambda: "C30" in daemon.request("GET", "/healthz")[1])
        until("a fault is logged", lambda: "delivering: found" in daemon.log)
        assert "retaining: found" in daemon.log
    finally:
        daemon.config.write_text(good)
    process.send_signal(signal.SIGHUP)
    until("the configuration is reloaded", lambda: daemon.request("GET", "/healthz")[0] == 200)


def test_status_does_not_fail_when_the_daemon_is_unreachable(
    call: Call, daemon: Folder, folder: Folder
) -> None:
    text = daemon.config.read_text().replace("sqlite:///state/", f"sqlite:///{daemon.path}/state/")
    folder.config.write_text(text.replace(f"port = {daemon.port}", f"port = {folder.port}"))
    result = call("status", "--json", at=folder)
    assert result.code == 0
    assert json.loads(result.out)["holder"]


async def test_a_second_run_on_the_store_exits_and_names_the_first(
    daemon: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(daemon.path)
    app = App(read_config())
    with (
        structlog.testing.capture_logs() as logs,
        pytest.raises(StoreError, match="holds this store") as found,
    ):
        await app.start(lease_timeout=0.0)
    assert found.value.problem == "S40"
    first = f"process {daemon.processes[0].pid} on "
    assert first in found.value.detail
    # At once, not only when it gives up.
    [waits] = [entry for entry in logs if entry["event"] == "lease_awaited"]
    assert waits["problem"] == "S40"
    assert first in waits["detail"]
    await app.stop()


def test_the_daemon_writes_nothing_to_stdout_and_exits_0_on_sigterm(folder: Folder) -> None:
    """In a folder of its own: the order of tests is not that of this module."""
    folder.start()
    headers, body = folder.platforms.traffic.make_event()
    assert folder.request("POST", "/webhooks/acme", body, headers)[0] == 202
    process = folder.processes[0]
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=90)
    assert (process.returncode, out) == (0, "")
    assert "@example.com" not in folder.log
