"""The console of a running daemon: what its forms change is in use at once, and audited."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from connector.domain.errors import Problem
from connector.sandbox import JeriCommerceSandbox, Traffic
from tests.paths import ROOT
from tests.platforms.plugins.daemon import Running, running

from .conftest import Browser

CONFIG = f"""\
[store]
url = "sqlite:///state.db"

[server]
port = 0

[[connections]]
name = "acme"
source = "jericommerce"
mapping = "{ROOT / "mappings" / "jericommerce.toml"}"

[connections.settings]
base_url = "${{JERICOMMERCE_URL}}"
program = "demo"
api_key = "jeri_sandbox"
webhook_secret = "jeri_webhook_secret"

[connections.klaviyo]
private_key = "pk_sandbox"
"""
PAGE = "/connections/acme"
STRICT = f"""\
extends = "{ROOT / "mappings" / "jericommerce.toml"}"

[events]
unknown = "dead-letter"
"""
"""A mapping that refuses events that it does not name."""


@asynccontextmanager
async def browser_of(daemon: Running) -> AsyncIterator[Browser]:
    address = f"http://127.0.0.1:{daemon.app.port}"
    async with httpx.AsyncClient(base_url=address, follow_redirects=True, timeout=30) as http:
        yield Browser(http)


async def test_modules_and_connections_are_switched_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> None:
    platforms = {"jericommerce": JeriCommerceSandbox().app}
    async with (
        running(tmp_path, CONFIG, platforms, {}, monkeypatch) as daemon,
        browser_of(daemon) as browser,
    ):

        async def submit(path: str, **fields: str) -> str:
            return (await browser.submit(PAGE, f"{PAGE}/{path}", **fields)).text

        assert "Actions off." in await submit("modules", module="actions", on="no")
        assert "actions" not in daemon.app.config.connection("acme").modules
        assert "<h1>Deactivate acme?</h1>" in await submit("enabled", on="no")
        assert "acme is deactivated." in await submit("enabled", on="no", confirmed="yes")
        assert not daemon.app.runtimes["acme"].enabled
        assert "acme is active." in await submit("enabled", on="yes")
        link = {"audience": "vip", "list": "VIP", "confirmed": "yes"}
        refused = await submit("audiences/add", **link)
        assert "connections.acme.audiences" in refused
        audit = (await browser.get("/audit?connection=acme")).text
        assert audit.count("setting_changed enabled") == 2
        assert "setting_changed modules" in audit
        use = (await browser.get("/use-in-klaviyo/acme")).text
        assert "jericommerce_tier_name" in use
        assert "platform=ios" in use


IN_FILE = """
[[connections]]
name = "fixed"
source = "jericommerce"
mapping = "%s"
enabled = true
modules = ["actions"]

[connections.settings]
base_url = "${JERICOMMERCE_URL}"
program = "demo"
api_key = "jeri_sandbox"
webhook_secret = "jeri_webhook_secret"

[connections.klaviyo]
private_key = "pk_sandbox"
"""


async def test_what_the_file_sets_has_no_switch_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> None:
    platforms = {"jericommerce": JeriCommerceSandbox().app}
    config = CONFIG + IN_FILE % (ROOT / "mappings" / "jericommerce.toml")
    async with (
        running(tmp_path, config, platforms, {}, monkeypatch) as daemon,
        browser_of(daemon) as browser,
    ):
        for page in ("/connections/fixed", "/connections/fixed/settings"):
            text = (await browser.get(page)).text
            assert "The configuration file sets whether it is active" in text
            assert "Deactivate" not in text
            assert switches(text) == []
        assert "The configuration file sets the modules" in (await browser.get(page[:18])).text
        assert "Deactivate acme" in (await browser.get(PAGE)).text


async def test_modules_are_switched_on_the_overview(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> None:
    platforms = {"jericommerce": JeriCommerceSandbox().app}
    config = CONFIG + IN_FILE % (ROOT / "mappings" / "jericommerce.toml")
    async with (
        running(tmp_path, config, platforms, {}, monkeypatch) as daemon,
        browser_of(daemon) as browser,
    ):
        modules = ("events", "profiles", "segments", "actions")
        expected = [f"Switch {module} off for acme" for module in modules]
        assert switches((await browser.get("/")).text) == expected
        answer = await browser.submit(
            "/", f"{PAGE}/modules", switch="actions off", **{"from": "overview"}
        )
        assert answer.url.path == "/"
        assert "Actions off." in answer.text
        assert "actions" not in daemon.app.config.connection("acme").modules
        await daemon.until(lambda: not daemon.app.runtimes["acme"].modules.count("actions"))
        assert "Switch actions on for acme" in switches((await browser.get("/")).text)
        await browser.submit("/", f"{PAGE}/modules", switch="actions on", **{"from": "overview"})
        assert "actions" in daemon.app.config.connection("acme").modules
        for wrong in ("actions", "actions of", "points on", ""):
            refused = await browser.submit("/", f"{PAGE}/modules", switch=wrong)
            assert refused.status_code == 404


def switches(html: str) -> list[str]:
    """The accessible names of the buttons that switch a module."""
    buttons = re.findall(r"<button[^>]*>(.*?)</button>", html)
    names = [re.sub("<[^>]*>", "", button) for button in buttons]
    return [name for name in names if name.startswith("Switch ")]


async def test_a_record_that_failed_is_fixed_by_a_change_of_the_mapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> None:
    double = JeriCommerceSandbox()
    (tmp_path / "strict.toml").write_text(STRICT)
    config = re.sub('mapping = ".*"', 'mapping = "strict.toml"', CONFIG)
    async with (
        running(tmp_path, config, {"jericommerce": double.app}, {}, monkeypatch) as daemon,
        browser_of(daemon) as browser,
    ):
        for number in range(3):
            sent = double.custom_event("Quiz completed", {"score": number})
            assert (await daemon.post("acme", sent.body, sent.headers))[0] == 202
        letters = daemon.app.store.dead_letters
        problems, unnamed = daemon.app.metrics.activity.problems, ("acme", Problem.UNKNOWN_EVENT)
        await daemon.until(lambda: unnamed in problems and problems[unnamed].count == 3)
        before = (await browser.get("/dead-letters")).text
        assert "The mapping has changed" not in before
        [first, *_] = await letters.find()
        page = f"/dead-letters/{first.id}"
        text = (await browser.get(page)).text
        assert "With the present mapping nothing would be sent" in text
        assert "No request was made" in text
        text = (await browser.submit(page, f"{page}/name-event")).text
        assert "Events named Quiz completed are sent from now on." in text
        assert "&#34;score&#34;: 2" in text
        page = "/dead-letters?cause=M20"
        text = (await browser.get(page)).text
        assert "The mapping has changed: 3 of these 3 would now pass" in text
        fields = {"what": "retry", "all": "yes", "cause": "M20", "count": "3", "confirmed": "yes"}
        assert "3 records will be sent again." in (await browser.submit(page, page, **fields)).text
        await daemon.until(lambda: len(daemon.klaviyo.unique_ids()) == 3)


async def test_a_person_is_compared_on_request_and_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> None:
    double = JeriCommerceSandbox(people=1)
    [ana] = double.people
    async with (
        running(tmp_path, CONFIG, {"jericommerce": double.app}, {}, monkeypatch) as daemon,
        browser_of(daemon) as browser,
    ):
        url = f"http://127.0.0.1:{daemon.app.port}/webhooks/acme"
        await Traffic(double, url, redelivery_share=0.0).burst(1)
        await daemon.until(lambda: daemon.properties(ana.email).get("balance") == ana.balance)
        found = await browser.submit("/people", "/people", who=ana.email)
        page, reads = found.url.path, len(double.read_log)
        text = (await browser.get(page)).text
        assert "Platform now" not in text
        assert len(double.read_log) == reads
        text = (await browser.submit(page, f"{page}/compare")).text
        assert "The platform and Klaviyo agree on every field." in text
        assert len(double.read_log) == reads + 1
        ana.change(balance=ana.balance + 7)
        text = (await browser.submit(page, f"{page}/compare")).text
        assert "1 field differs between the platform and Klaviyo." in text
        assert f"<td>{ana.balance}</td><td>{ana.balance - 7}</td>" in text
        daemon.klaviyo.faults.add("*", "status", status=500)
        text = (await browser.submit(page, f"{page}/compare")).text
        assert "At Klaviyo:" in text
        assert "differs" not in text
        daemon.klaviyo.faults.clear()
        assert str((await browser.get(f"{page}/compare")).url).endswith(page)
        asked = await browser.submit(page, f"{page}/forget")
        assert "This cannot be undone." in asked.text
        done = await browser.submit(page, f"{page}/forget", confirmed="yes")
        assert "The person is forgotten" in done.text
        assert (await browser.get(page)).status_code == 404
