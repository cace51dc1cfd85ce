"""Every command without a daemon: exit code, output, and what it does not change."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main
from rich.console import Console

from connector import cli, service
from connector.cli import demo
from connector.pipeline.lease import ProcessLeases
from connector.runtime.clock import SystemClock
from connector.sandbox import KlaviyoSandbox
from connector.sandbox.demo_platforms import DEMO_PLATFORMS
from connector.store.admin import filesystem
from connector.store.sql import open_store
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.store import memory_store
from tests.waiting import free_port

from .conftest import ROOT, Call, Folder

SECRETS = {
    "ACME_KLAVIYO_PRIVATE_KEY": "pk_sandbox",
    "ACME_PROGRAM": "demo",
    "ACME_API_KEY": "jeri_sandbox",
    "ACME_WEBHOOK_SECRET": "jeri_webhook_secret",
}


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


# ── help ─────────────────────────────────────────────────────────────────────────────────────────


def groups(command: Any) -> list[list[str]]:
    """The words of every command."""
    found: list[list[str]] = []

    def walk(command: Any, words: list[str]) -> None:
        found.append(words)
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, [*words, name])

    walk(command, [])
    return found


def test_no_help_is_cut_off_at_80_columns(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    # Making the commands takes longer than their help, and they are the same each time.
    command = typer.main.get_command(cli.app)
    monkeypatch.setattr(cli, "app", command)
    for words in groups(command):
        result = call(*words, "--help")
        assert result.code == 0
        _, _, below = result.out.partition("\n\n")
        assert not re.search(r"\.\.\.$", below, re.M), f"{words}\n{result.out}"
        assert all(len(line) <= 80 for line in result.out.splitlines())


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, atexit\n"
        "sys.argv = ['connector', '--help']\n"
        "from connector.cli import main\n"
        "heavy = {'sqlalchemy', 'sqlmodel', 'httpx', 'alembic', 'starlette', 'pydantic'}\n"
        "atexit.register(lambda: print(sorted(heavy & sys.modules.keys()), file=sys.stderr))\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "called"),
    [
        (["status"], "status._from_store"),  # called after the daemon was asked
        (["healthcheck"], "daemon.print"),
        (["healthcheck", "--ready"], "daemon.print"),
    ],
    ids=["status", "healthcheck", "healthcheck --ready"],
)
def test_it_imports_no_more_than_it_needs_for_the_daemons_answer(
    tmp_path: Path, words: list[str], called: str
) -> None:
    (tmp_path / "connector.toml").write_text("[server]\nport = 1\n")
    program = (
        "import sys\n"
        "from connector.cli import daemon, main, status, status_view\n"
        "heavy = {'sqlalchemy', 'httpx', 'uvloop', 'asyncio', 'structlog', 'orjson'}\n"
        "heavy |= {'connector.platforms', 'connector.store', 'connector.mapping'}\n"
        "def report(_):\n"
        "    sys.exit(str(sorted(heavy & sys.modules.keys())))\n"
        f"{called} = report\n"
        f"sys.argv = {['connector', *words]}\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == "[]"


def test_the_version_is_printed_to_stdout(call: Call) -> None:
    result = call("--version")
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(r"connector \d+\.\d+\.\S+\n", result.out)


@pytest.mark.parametrize(
    "words",
    [
        ["fly"],
        ["run", "--fast"],
        ["pause"],
        ["preview", "acme"],
        ["preview", "acme", "--record", "missing.json"],
        ["dead-letters", "retry"],
        ["dead-letters", "show", "x"],
        ["check", "--wait", "soon"],
        ["demo", "--for", "ever"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2_with_a_message_on_stderr(
    call: Call, folder: Folder, words: list[str]
) -> None:
    result = call(*words, at=folder)
    assert (result.code, result.out) == (2, "")
    assert result.err
    assert "Traceback" not in result.err


# ── init and check ───────────────────────────────────────────────────────────────────────────────


def test_init_writes_a_folder_that_passes_an_offline_check_once_its_secrets_are_filled(
    call: Call, tmp_path: Path
) -> None:
    result = call("init", at=tmp_path)
    assert (result.code, result.err) == (0, "")
    env = tmp_path / ".env"
    assert stat.S_IMODE(env.stat().st_mode) == 0o600

    empty = call("check", "--offline")
    assert (empty.code, empty.out) == (2, "")
    for key in ("program", "klaviyo.private_key", "api_key"):
        assert re.search(rf"^connections\.acme\.\S*{key}: ", empty.err, re.M)

    text = env.read_text()
    for name, value in SECRETS.items():
        assert f"\n{name}=\n" in text
        text = text.replace(f"\n{name}=\n", f"\n{name}={value}\n")
    env.write_text(text)
    before = files(tmp_path)
    filled = call("check", "--offline")
    assert filled.code == 0, filled.out + filled.err
    assert "FAULT" not in filled.out
    assert files(tmp_path) == before

    config = tmp_path / "connector.toml"
    config.write_text(
        config.read_text().replace("http://127.0.0.1:8787", "https://loyalty.example.com")
    )
    public = call("check", "--offline")
    assert public.code == 0, public.err
    assert "warning" not in public.out


def test_init_never_overwrites(call: Call, tmp_path: Path) -> None:
    call("init", at=tmp_path)
    for name in ("connector.toml", ".env", "mappings/jericommerce.toml"):
        (tmp_path / name).write_text(f"mine: {name}")
    before = files(tmp_path)
    again = call("init", "--name", "other")
    assert again.code == 0
    assert files(tmp_path) == before
    assert again.out.count("kept") == 3


def test_init_makes_new_secrets_each_time_and_prints_none(call: Call, tmp_path: Path) -> None:
    seen = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        result = call("init", at=tmp_path / name)
        filled = re.findall(r"^\w+=(.+)$", (tmp_path / name / ".env").read_text(), re.M)
        assert filled
        assert not [secret for secret in filled if secret in result.out]
        seen += filled
    assert len(set(seen)) == len(seen)


def test_what_init_writes_names_only_commands_that_exist(call: Call, tmp_path: Path) -> None:
    call("init", at=tmp_path)
    text = (tmp_path / "connector.toml").read_text() + (tmp_path / ".env").read_text()
    known = {words[0] for words in groups(typer.main.get_command(cli.app)) if words}
    assert set(re.findall(r"`connector ([\w-]+)", text)) <= known
    assert not re.search(r"\bconsole\b(?! \|)", re.sub(r"# format.*", "", text))


def test_init_for_an_unknown_platform_is_a_fault_that_names_the_known_ones(
    call: Call, tmp_path: Path
) -> None:
    result = call("init", "--source", "unknown", at=tmp_path)
    assert (result.code, result.out) == (2, "")
    assert "jericommerce" in result.err
    assert not files(tmp_path)


def test_a_faulty_configuration_prints_every_fault_and_exits_2(call: Call, folder: Folder) -> None:
    text = folder.config.read_text()
    for old, new in (
        ('min_free = "1MB"', 'min_free = "much"'),
        ('probe_every = "1s"', 'probe_every = "often"'),
        ('private_key = "pk_sandbox"', 'private_key = ""'),
    ):
        text = text.replace(old, new)
    folder.config.write_text(text + "\n[serve]\nport = 1\n")
    for words in (["check", "--offline"], ["status"], ["run"], ["config", "show"], ["reload"]):
        result = call(*words, at=folder)
        assert (result.code, result.out) == (2, "")
        for key in (
            "store.min_free",
            "delivery.probe_every",
            "connections.acme.klaviyo.private_key",
            "serve",
        ):
            assert re.search(rf"^{re.escape(key)}: found ", result.err, re.M), result.err
    assert not folder.store.exists()


def test_without_a_configuration_the_message_says_how_to_create_one(
    call: Call, tmp_path: Path
) -> None:
    result = call("run", at=tmp_path)
    assert (result.code, result.out) == (2, "")
    assert "connector init" in result.err


def test_check_queries_klaviyo_and_changes_nothing(call: Call, folder: Folder) -> None:
    before = files(folder.path)
    result = call("check", at=folder)
    assert result.code == 0, result.out + result.err
    assert "ok      acme: Klaviyo key: account SANDBX" in result.out
    assert files(folder.path) == before


def test_check_leaves_an_existing_store_as_it_is(call: Call, folder: Folder) -> None:
    folder.ingest("ana@example.com")
    before = files(folder.path)
    assert call("check", at=folder).code == 0
    assert files(folder.path) == before


def test_check_exits_1_with_the_code_when_klaviyo_rejects_the_key(
    call: Call, folder: Folder
) -> None:
    folder.write(key="pk_other_account")
    result = call("check", at=folder)
    assert result.code == 1
    assert "FAULT   acme: Klaviyo key K401: HTTP 401" in result.out
    assert "pk_other_account" not in result.out + result.err


def test_check_warns_of_a_store_on_a_volatile_file_system(
    call: Call, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / {folder.path} rw - tmpfs tmpfs rw\n"
    monkeypatch.setattr(filesystem, "read_mountinfo", lambda: table)
    result = call("check", "--offline", at=folder)
    assert result.code == 0
    assert f"warning store: {folder.path} is on tmpfs, memory" in result.out
    folder.config.write_text(
        folder.config.read_text().replace(
            "sqlite:///state/cli.db", "postgresql://u:p@localhost:1/d"
        )
    )
    assert "tmpfs" not in call("check", "--offline", at=folder).out


def test_check_names_other_integrations_that_send_our_metric(call: Call, folder: Folder) -> None:
    foreign = folder.platforms.klaviyo.foreign_metrics
    foreign.extend([("Balance changed", "Shopify"), ("Placed Order", "Shopify")])
    try:
        result = call("check", at=folder)
    finally:
        foreign.clear()
    assert result.code == 0
    assert "warning acme: Klaviyo metrics: Shopify also sends Balance changed\n" in result.out
    assert "Placed Order" not in result.out
    assert "Klaviyo metrics" not in call("check", at=folder).out


def test_check_names_metrics_of_klaviyos_web_tracking(call: Call, folder: Folder) -> None:
    """They have the integration of private keys, and this connector did not send them."""
    folder.mapping.write_text(
        folder.mapping.read_text()
        + '\n[events.metrics."Active on Site"]\nname = "Active on Site"\n'
    )
    foreign = folder.platforms.klaviyo.foreign_metrics
    foreign.extend([("Active on Site", "API"), ("Viewed Product", "API")])
    try:
        result = call("check", at=folder)
    finally:
        foreign.clear()
    assert "warning acme: Klaviyo metrics: Klaviyo's web tracking also sends Active on Site" in (
        result.out
    )
    assert "Viewed Product" not in result.out


def test_check_reports_a_missing_metrics_scope(call: Call, folder: Folder) -> None:
    folder.platforms.klaviyo.faults.add("metrics", "status", status=403, count=1)
    result = call("check", at=folder)
    assert result.code == 0
    assert "warning acme: Klaviyo metrics K403: the scope metrics:read is missing" in result.out


def test_check_wait_retries_until_klaviyo_responds(call: Call, folder: Folder) -> None:
    folder.platforms.klaviyo.faults.add("accounts", "status", status=503, count=1)
    result = call("check", "--wait", "1s", at=folder)
    assert result.code == 0, result.out
    assert not folder.platforms.klaviyo.faults


def test_check_names_a_faulty_mapping(call: Call, folder: Folder) -> None:
    folder.mapping.write_text("version = 1\nsource = 'jericommerce'\nfly = true\n")
    for words in (["check", "--offline"], ["mappings", "check"]):
        result = call(*words, at=folder)
        assert result.code == 1
        assert re.search(r"FAULT .*mapping jericommerce.toml C20: .*fly", result.out)


def test_the_shipped_mapping_passes_its_check(call: Call, folder: Folder) -> None:
    result = call("mappings", "check", at=folder)
    assert (result.code, result.err) == (0, "")
    assert "ok      mapping jericommerce.toml" in result.out


def test_config_show_masks_every_secret(call: Call, folder: Folder) -> None:
    result = call("config", "show", at=folder)
    assert result.code == 0
    assert 'name = "acme"' in result.out
    for secret in ("pk_sandbox", "jeri_sandbox", "jeri_webhook_secret"):
        assert secret not in result.out + result.err


@pytest.mark.parametrize("words", [["preview", "unknown", "--record", "connector.toml"]])
def test_an_unknown_connection_is_reported_with_the_known_ones(
    call: Call, folder: Folder, words: list[str]
) -> None:
    result = call(*words, at=folder)
    assert (result.code, result.out) == (2, "")
    assert "unknown" in result.err
    assert "acme" in result.err


def test_preview_of_an_unreadable_record_exits_1(call: Call, folder: Folder) -> None:
    (folder.path / "record.json").write_text('{"name": "Balance changed", "record": {}}')
    result = call("preview", "acme", "--record", "record.json", at=folder)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("W400 ")


# ── commands without a daemon ────────────────────────────────────────────────────────────


def test_pause_status_resume_without_a_daemon(call: Call, folder: Folder) -> None:
    folder.ingest("ana@example.com")
    states = []
    for command in ("pause", "resume"):
        result = call(command, "acme", at=folder)
        assert (result.code, result.out) == (0, f"{command}d: acme\n")
        status = json.loads(call("status", "--json").out)
        assert status["holder"] is None
        [lane] = [x for x in status["connections"]["acme"]["lanes"] if x["kind"] == "event"]
        states.append((lane["state"], lane["problem"], lane["ready"]))
    assert states == [("paused", "L40", 1), ("stopped", None, 1)]


def test_a_connection_that_does_not_exist_is_wrong_usage(call: Call, folder: Folder) -> None:
    result = call("pause", "acne", at=folder)
    assert (result.code, result.out) == (2, "")
    message = " ".join(result.err.replace("│", " ").split())
    assert "no connection 'acne', did you mean 'acme'?; available: acme" in message


def test_reload_without_a_daemon_is_reported(call: Call, folder: Folder) -> None:
    folder.ingest("ana@example.com")
    result = call("reload", at=folder)
    assert (result.code, result.out) == (1, "")
    assert (
        result.err.splitlines()[-1] == "no daemon runs on this store, so there is nothing to reload"
    )


def test_text_status_shows_the_holder_and_the_backlog(call: Call, folder: Folder) -> None:
    folder.ingest("ana@example.com", None)
    result = call("status", at=folder)
    assert result.code == 0
    assert result.out.startswith("Not started yet, 1 record waits\n")
    assert "no process runs on this store; start it: connector run" in result.out
    assert re.search(r"events → klaviyo +stopped +1 +0 +1 +0 ", result.out)
    assert "1  acme events → klaviyo  held  I10" in result.out


def test_a_retry_reports_how_many_still_wait_for_an_address(call: Call, folder: Folder) -> None:
    folder.ingest("ana@example.com", None, None)
    [first, second] = json.loads(call("dead-letters", "list", "--json", at=folder).out)
    assert {first["state"], first["problem"]} == {"held", "I10"}
    for words, waiting in (
        (["--all"], 2),
        (["--cause", "I10"], 2),
        (["--cause", "K400"], 0),
        ([str(first["id"])], 1),
        ([str(first["id"]), str(second["id"]), "999"], 2),
    ):
        result = call("dead-letters", "retry", *words)
        assert (result.code, result.out) == (0, f"retried: 0, waiting for an address: {waiting}\n")


def test_a_list_of_dead_letters_says_where_it_ends(call: Call, folder: Folder) -> None:
    folder.ingest(None, None)
    more = "and older ones: --limit shows more than 1"
    assert call("dead-letters", "list", "--limit", "1", at=folder).out.splitlines()[-1] == more
    assert more not in call("dead-letters", "list").out
    other = call("dead-letters", "list", "--cause", "K400")
    assert (other.code, other.out) == (0, "nothing waits: no record is dead or held\n")


def test_dead_letters_are_listed_shown_and_discarded(call: Call, folder: Folder) -> None:
    folder.ingest(None)
    listed = call("dead-letters", "list", at=folder)
    assert (listed.code, listed.err) == (0, "")
    [found] = json.loads(call("dead-letters", "list", "--json").out)
    id = str(found["id"])
    assert f"       {id}  " in listed.out
    shown = json.loads(call("dead-letters", "show", id).out)
    assert shown["record"] == {"properties": {"amount": 5}}
    result = call("dead-letters", "show", "999")
    assert (result.code, result.out) == (1, "")
    unconfirmed = call("dead-letters", "discard", id)
    assert unconfirmed.code == 1  # stdin is empty
    discarded = call("dead-letters", "discard", id, "--yes", "--reason", "test")
    assert (discarded.code, discarded.out) == (0, "discarded: 1\n")
    assert json.loads(call("dead-letters", "list", "--json").out) == []


def test_store_upgrade_creates_a_store_and_store_check_finds_damage(
    call: Call, folder: Folder
) -> None:
    upgraded = call("store", "upgrade", at=folder)
    assert upgraded.code == 0
    assert upgraded.out.startswith("the store is at revision ")
    intact = call("store", "check")
    assert (intact.code, intact.out) == (0, "the store is ok\n")
    folder.store.write_bytes(b"no database at all" * 100)
    checked = call("check", "--offline")
    assert checked.code == 1
    assert re.search(
        r"^FAULT   store S50: .*not a database\n +→ stop the daemon, ", checked.out, re.M
    )
    broken = call("store", "check")
    assert broken.code == 1
    assert broken.out.startswith("S50")
    assert "connector store restore BACKUP" in broken.out


def test_a_daemon_that_is_not_running_is_unhealthy(call: Call, folder: Folder) -> None:
    for words in (["healthcheck"], ["healthcheck", "--ready"]):
        result = call(*words, at=folder)
        port = re.search(r"port = (\d+)", folder.config.read_text())
        assert port
        assert result.code == 1
        assert result.out == (
            f"no answer on 127.0.0.1 port {port[1]}; `connector status` says whether the daemon "
            "runs\n"
        )


def test_a_healthcheck_asks_the_daemon_and_not_the_store(call: Call, folder: Folder) -> None:
    """A database that is away makes no container unhealthy."""
    with socket.socket() as database:
        database.bind(("127.0.0.1", 0))
        database.listen()
        database.setblocking(False)
        url = f"postgresql://u:p@127.0.0.1:{database.getsockname()[1]}/d"
        text = folder.config.read_text()
        folder.config.write_text(text.replace("sqlite:///state/cli.db", url))
        for words in (["healthcheck"], ["healthcheck", "--ready"]):
            result = call(*words, at=folder)
            assert (result.code, result.err) == (1, "")
            assert result.out.startswith("no answer")
        with pytest.raises(BlockingIOError):
            database.accept()


async def test_a_command_is_answered_even_when_it_raises() -> None:
    store, clock = memory_store(), FakeClock()
    commands = service.Commands(store, clock)
    id = await commands.submit("pause", {}, by="test")
    await commands.execute_pending()
    done = await commands.command(id)
    assert done
    assert (done.ok, done.result) == (False, {"error": "KeyError, see the log"})


# ── run ──────────────────────────────────────────────────────────────────────────────────────────


def test_run_until_idle_drains_a_backlog_and_exits_0(folder: Folder) -> None:
    folder.ingest(*(f"p{n}@example.com" for n in range(70)), None)
    assert folder.finished("run", "--until-idle") == (0, "")
    assert folder.delivered() == 70
    assert "ready" in folder.log
    assert "@example.com" not in folder.log


def test_run_until_idle_exits_1_with_a_message_when_klaviyo_rejects_the_key(
    folder: Folder,
) -> None:
    folder.write(key="pk_other_account")
    folder.ingest("ana@example.com")
    code, out = folder.finished("run", "--until-idle")
    assert code == 1
    [line] = out.splitlines()
    assert line.startswith("acme events → klaviyo: blocked, ")
    assert "HTTP 401" in line
    assert folder.delivered() == 0
    assert "pk_other_account" not in folder.log


def test_run_until_idle_names_what_a_person_has_paused(call: Call, folder: Folder) -> None:
    folder.ingest("ana@example.com")
    assert call("pause", "acme", at=folder).code == 0
    code, out = folder.finished("run", "--until-idle")
    assert code == 1
    assert "acme events → klaviyo: paused\n" in out


@pytest.mark.parametrize("key", ["port", "admin_port"])
def test_run_on_a_port_in_use_names_the_key_exits_2_and_releases_the_lease(
    call: Call, folder: Folder, key: str
) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        folder.write(port=port if key == "port" else None)
        if key == "admin_port":
            text = folder.config.read_text()
            folder.config.write_text(text.replace("[server]", f"[server]\nadmin_port = {port}"))
        assert folder.finished("run") == (2, "")
    [line] = [line for line in folder.log.splitlines() if line.startswith("server.")]
    assert line.startswith(f"server.{key}: 127.0.0.1:{port} is ")
    assert line.endswith(", allowed a free port")
    assert "Traceback" not in folder.log
    status = json.loads(call("status", "--json", at=folder).out)
    assert status["holder"] is None


async def test_a_second_process_learns_who_holds_the_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'held.db'}"
    one, two = await open_store(url), await open_store(url)
    first = ProcessLeases(one, SystemClock())
    second = ProcessLeases(two, SystemClock(), "second")
    assert await first.acquire_store() is None
    holder = await second.acquire_store()
    assert holder
    assert holder.holder == first.holder
    await first.aclose()
    assert await second.acquire_store() is None
    await second.aclose()
    await asyncio.gather(one.aclose(), two.aclose())


# ── sandbox and demo ─────────────────────────────────────────────────────────────────────────────


def test_the_sandbox_prints_its_urls_and_exits_0_on_sigterm(folder: Folder) -> None:
    klaviyo, first = free_port(), free_port(following=len(DEMO_PLATFORMS) - 1)
    process = folder.spawn("sandbox", f"--klaviyo-port={klaviyo}", f"--jericommerce-port={first}")
    assert process.stdout
    ports = {"klaviyo": klaviyo} | {
        demo_platform.source: first + n for n, demo_platform in enumerate(DEMO_PLATFORMS)
    }
    result = [process.stdout.readline() for _ in ports]
    assert result == [f"{name}: http://127.0.0.1:{port}\n" for name, port in ports.items()]
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 0


def test_the_demo_succeeds_and_its_summary_is_accurate(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandboxes: list[KlaviyoSandbox] = []

    def sandbox() -> KlaviyoSandbox:
        sandboxes.append(KlaviyoSandbox())
        return sandboxes[0]

    monkeypatch.setattr("connector.cli.demo.KlaviyoSandbox", sandbox)
    result = call("demo", "--for", "3s", "--rate", "40")
    assert result.code == 0, result.out + result.err
    summary = dict(re.findall(r"^(received|accepted|missing) +([\d,]+)", result.out, re.M))
    counts = sandboxes[0].unique_ids()
    assert int(summary["accepted"].replace(",", "")) == len(counts) > 20
    assert (summary["received"], summary["missing"]) == (summary["accepted"], "0")
    assert set(counts.values()) == {1}
    assert result.out.splitlines()[-1] == "all checks passed"
    folder = re.search(r"files:\s+(\S+)", result.out)
    assert folder
    assert not Path(folder[1]).exists()


def test_the_demo_on_a_port_in_use_exits_2_and_leaves_no_files(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        result = call("demo", "--port", str(occupied.getsockname()[1]))
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[-1].startswith("server.port: ")
    assert list(tmp_path.iterdir()) == []


async def test_the_demo_fails_when_an_event_is_missing_or_duplicated() -> None:
    async def nothing(*_: object) -> list[Any]:
        return []

    reports = SimpleNamespace(backlog=nothing, latencies=nothing, write_latencies=nothing)
    app = SimpleNamespace(
        store=SimpleNamespace(reports=reports),
        runtimes={
            "jericommerce": SimpleNamespace(events=SimpleNamespace(lane=SimpleNamespace(id=1)))
        },
    )
    for recorded, code in (({"a": 1, "b": 1}, 0), ({"a": 1}, 1), ({"a": 1, "b": 2}, 1)):
        klaviyo = SimpleNamespace(
            unique_ids=lambda counts=recorded: counts,
            state=lambda: {"throttled": 0, "violations": {}, "profiles": 0},
        )
        double = SimpleNamespace(people=[], state=lambda: {"throttled": 0, "violations": {}})
        traffic = SimpleNamespace(acknowledged={"a", "b", ""}, redeliveries=1)
        platforms = [demo.RunningPlatform(DEMO_PLATFORMS[0], double, traffic)]
        console = Console(file=(printed := io.StringIO()))
        assert await demo.print_summary(console, app, klaviyo, platforms) == code
        assert "received   2   (1 redelivery recognised)" in printed.getvalue()


def test_a_person_is_refreshed_without_a_daemon(call: Call, folder: Folder) -> None:
    platforms = folder.platforms
    headers, body = platforms.traffic.make_event()
    email = json.loads(body)["email"]
    folder.start()
    assert folder.request("POST", "/webhooks/acme", body, headers)[0] == 202
    folder.stop()
    platforms.jericommerce.person(email).change(balance=777)
    result = call("refresh", "acme", email, at=folder)
    assert result.code == 0, result.err
    assert re.search(r"balance +confirmed +777", result.out)
    assert platforms.klaviyo.profile(email)["properties"]["balance"] == 777
    # The lease is released: the next command need not wait.
    assert call("pause", "acme", at=folder).code == 0


@pytest.mark.parametrize(
    "words",
    [
        "actions applied",
        "approvals approve",
        "dead-letters discard",
        "dead-letters retry",
        "dead-letters show",
    ],
)
def test_a_number_that_no_row_can_have_is_a_wrong_argument(
    call: Call, folder: Folder, words: str
) -> None:
    result = call(*words.split(), "99999999999999999999", at=folder)
    assert result.code == 2
    assert "less than or equal to 9223372036854775807" in result.err


def test_at_a_terminal_disconnect_asks(
    call: Call, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a script it does not: a reconnection undoes it."""
    terminal = io.StringIO("n\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    refused = call("disconnect", "acme", at=folder)
    assert refused.code == 1
    assert "Disconnect acme, which removes the app at Klaviyo?" in refused.err
    assert "Aborted" in refused.err
