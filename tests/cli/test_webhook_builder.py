"""`connector webhook-builder`: its output, when it shows the secret, and its errors."""

from __future__ import annotations

import json
import re
import shlex
import sys
from typing import Any

import pytest
import typer.main

from connector import cli
from connector.service.webhook_builder import PRESETS

from .conftest import ROOT, Call, Folder

ARGS = ("webhook-builder", "acme", "--action", "increase", "--amount", "100", "--reason", "Hello")


@pytest.fixture
def flows(folder: Folder) -> Folder:
    text = folder.config.read_text()
    folder.config.write_text(text + '\n[connections.actions]\nsecret = "flow_secret"\n')
    return folder


def test_it_prints_the_text_to_paste_and_needs_no_store(call: Call, flows: Folder) -> None:
    result = call(*ARGS, "--show-secret", at=flows)
    assert result.code == 0
    assert result.err == ""
    url = f"http://127.0.0.1:{flows.port}/flows/acme/balance/increase"
    pasted = (
        url,
        "api-key: flow_secret",
        "{% if event|lookup:'$event_id' %}hello:",
        f"curl -i {url}",
        "Notes",
    )
    places = [result.out.index(part) for part in pasted]
    assert places == sorted(places)
    assert not flows.store.exists()


def test_the_printed_body_is_the_body_to_paste(call: Call, flows: Folder) -> None:
    text = call(*ARGS, at=flows).out
    body = text.split("JSON body\n")[1].split("\n\n")[0]
    assert json.loads(body) == json.loads(json.loads(call(*ARGS, "--json", at=flows).out)["body"])


@pytest.mark.parametrize("extra", [(), ("--json",), ("--direct",), ("--direct", "--json")])
def test_a_pipe_gets_no_secret_unless_requested(
    call: Call, flows: Folder, extra: tuple[str, ...]
) -> None:
    masked = call(*ARGS, *extra, at=flows)
    assert masked.code == 0
    assert "flow_secret" not in masked.out
    assert "jeri_sandbox" not in masked.out
    assert "--show-secret" in masked.out
    shown = call(*ARGS, *extra, "--show-secret", at=flows).out
    assert ("jeri_sandbox" if "--direct" in extra else "flow_secret") in shown


def test_no_part_of_a_secret_containing_a_quote_is_shown(call: Call, folder: Folder) -> None:
    with folder.config.open("a") as file:
        file.write('\n[connections.actions]\nsecret = "qqxx\'zzyy"\n')
    masked = call(*ARGS, at=folder).out
    assert "qqxx" not in masked
    assert "zzyy" not in masked


def test_a_terminal_is_shown_the_secret(
    call: Call, flows: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert "api-key: flow_secret" in call(*ARGS, at=flows).out


def test_the_first_of_two_secrets_is_the_one_to_paste(call: Call, folder: Folder) -> None:
    text = folder.config.read_text()
    folder.config.write_text(text + '\n[connections.actions]\nsecret = ["new", "old"]\n')
    assert "api-key: new\n" in call(*ARGS, "--show-secret", at=folder).out


def test_a_preset_names_its_trigger_and_options_override_it(call: Call, flows: Folder) -> None:
    args = ("webhook-builder", "acme", "--preset", "birthday-bonus")
    plain: dict[str, Any] = json.loads(call(*args, "--json", at=flows).out)
    [item] = json.loads(plain["body"])
    assert (item["amount"], item["once_per"]) == (100, "300d")
    assert plain["notes"][0].startswith("The flow starts with the date property")
    other = call(*args, "--amount", "7", "--once-per", "180d", "--json", at=flows)
    [item] = json.loads(json.loads(other.out)["body"])
    assert (item["amount"], item["once_per"]) == (7, "180d")
    assert item["idempotency_key"].startswith("birthday-bonus:")
    refund = ("webhook-builder", "acme", "--preset", "refund-redeemed-points")
    assert call(*refund, "--amount", "70", "--direct", at=flows).code == 0
    assert "above at-most, which is 500" in call(*refund, "--amount", "700", at=flows).err


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("shop",), "no connection 'shop'; available: acme"),
        (("acme", "--preset", "wedding"), "no preset 'wedding'; available: welcome-bonus"),
        (("acme", "--action", "double"), "is one of increase, decrease, adjust, push"),
        (("acme", "--trigger", "moon"), "is one of metric, list, date, segment"),
        (("acme", "--use-case", "gift"), "--use-case is one of reward"),
        (("acme", "--amount", "5"), "points need a reason"),
        (("acme", "--action", "push"), "a push needs a message"),
        (("acme", "--amount", "{{ event.x }}", "--reason", "x"), "needs an upper bound: at-most"),
    ],
)
def test_a_mistake_is_a_usage_error_with_a_fix(
    call: Call, flows: Folder, args: tuple[str, ...], error: str
) -> None:
    answer = call("webhook-builder", *args, at=flows)
    assert answer.code == 2
    assert error in " ".join(answer.err.split())
    assert answer.out == ""


def test_the_files_written_by_init_work_with_the_builder(call: Call, folder: Folder) -> None:
    fresh = folder.path / "fresh"
    fresh.mkdir()
    call("init", at=fresh)
    [secret] = re.findall(r"^ACME_FLOW_SECRET=(\S{20,})$", (fresh / ".env").read_text(), re.M)
    with (fresh / ".env").open("a") as env:
        env.write("ACME_PROGRAM=demo\nACME_API_KEY=x\nACME_KLAVIYO_PRIVATE_KEY=pk\n")
    result = call(*ARGS, "--show-secret", at=fresh)
    assert (result.code, result.err) == (0, "")
    assert f"api-key: {secret}\n" in result.out


def test_without_the_actions_table_it_warns_that_every_flow_is_refused(
    call: Call, folder: Folder
) -> None:
    answer = call(*ARGS, at=folder)
    assert answer.code == 2
    assert "no [connections.actions] table" in answer.err


# ── docs/webhook-builder.md ──────────────────────────────────────────────────────────────────────

PAGE = (ROOT / "docs" / "webhook-builder.md").read_text()
GUIDE = (ROOT / "docs" / "guide.md").read_text()
COMMANDS = re.findall(r"^connector (webhook-builder .+)$", PAGE + GUIDE, re.M)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_on_the_page_works_as_written(call: Call, flows: Folder, line: str) -> None:
    flows.config.write_text(flows.config.read_text().replace('"acme"', '"shop"'))
    result = call(*shlex.split(line), at=flows)
    assert (result.code, result.err) == (0, "")


def test_the_page_contains_commands() -> None:
    assert len(COMMANDS) >= 6


def test_the_page_lists_every_option() -> None:
    command = typer.main.get_command(cli.app).commands["webhook-builder"]
    options = {option for p in command.params for option in p.opts if option.startswith("--")}
    assert options - {"--help"} <= set(re.findall(r"--[a-z-]+", PAGE))


def test_the_page_lists_every_preset_as_it_is() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| a (\w+) \| (.+) \| (.+) \|$", PAGE, re.M)
    expected = []
    for name, preset in PRESETS.items():
        step = preset.step
        bound = f" (at most {step.at_most})" if step.at_most else ""
        amount = f"`{step.amount}`{bound}" if step.at_most else step.amount
        what = (
            f'push "{step.message}"' if step.message else f'{step.action} {amount}, "{step.reason}"'
        )
        once_per = "300d" if step.trigger == "date" else step.once_per
        event = step.trigger == "metric" and not once_per
        counts = "event" if event else "person" + (f" and {once_per}" if once_per else "")
        expected.append((name, step.trigger, what, counts))
    assert rows == expected


# ── what the connection says ─────────────────────────────────────────────────────────────────────

WLL = """
[[connections]]
name = "club"
source = "wll"
mapping = "{mapping}"

[connections.settings]
api_key = "key"
client_id = "id"
client_secret = "secret"
webhook_secret = "a-long-enough-secret"
{more}
[connections.klaviyo]
private_key = "pk_sandbox"

[connections.actions]
secret = "flow_secret"
"""


def test_the_birth_date_is_the_property_that_the_mapping_writes(call: Call, flows: Folder) -> None:
    args = ("webhook-builder", "acme", "--preset", "birthday-bonus", "--json")
    flows.mapping.write_text(
        flows.mapping.read_text().replace("[profile.fields.birthdate]", "[profile.fields.born_on]")
    )
    notes = json.loads(call(*args, at=flows).out)["notes"]
    assert notes[0] == "The flow starts with the date property born_on, on the day."
    off = "[profile.fields.born_on]\nenabled = false"
    flows.mapping.write_text(flows.mapping.read_text().replace("[profile.fields.born_on]", off))
    notes = json.loads(call(*args, at=flows).out)["notes"]
    assert "The mapping of this connection writes none" in notes[0]


def test_a_platform_that_lacks_a_setting_for_actions_says_which(call: Call, folder: Folder) -> None:
    mapping = ROOT / "mappings" / "wll.toml"
    folder.config.write_text(WLL.format(mapping=mapping, more=""))
    args = ("webhook-builder", "club", *ARGS[2:])
    result = call(*args, at=folder)
    assert result.code == 2
    assert result.err.startswith(
        "White Label Loyalty needs points_event_type and points_event_secret in the connection's "
    )
    more = 'points_event_type = "POINTS"\npoints_event_secret = "s"\n'
    folder.config.write_text(WLL.format(mapping=mapping, more=more))
    result = call(*args, "--json", at=folder)
    assert result.code == 0
    assert any("its own user id" in note for note in json.loads(result.out)["notes"])


def test_a_test_call_shows_the_answer(call: Call, flows: Folder) -> None:
    flows.config.write_text(
        flows.config.read_text().replace(
            "[server]", f'[server]\npublic_url = "http://127.0.0.1:{flows.port}"'
        )
    )
    away = call(*ARGS, "--send-test", "ada@example.com", "--yes", at=flows)
    assert away.code == 1
    assert "no answer: ConnectError" in away.out
    assert "is the connector running" in away.err
    flows.start()
    for _ in range(2):
        result = call(*ARGS, "--send-test", "ada@example.com", "--yes", at=flows)
        assert (result.code, result.err) == (0, "")
        first, answer = result.out.splitlines()
        assert first == f"POST http://127.0.0.1:{flows.port}/flows/acme/balance/increase → 202"
        assert json.loads(answer) == {"accepted": 1, "duplicates": 0, "held": 0}
    refused = call(*ARGS, "--send-test", "ada@example.com", at=flows)
    assert refused.code == 1  # stdin is empty: no confirmation, no call
    assert call(*ARGS, "--direct", "--send-test", "a@example.com", "--yes", at=flows).code == 2
