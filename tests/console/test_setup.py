"""A connection is made, completed and changed in the console, from an empty store on. No script is
needed for any of it."""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from connector.config.export import export
from connector.domain.lanes import Millis
from connector.ports import Command
from connector.runtime.encryption import Cipher
from connector.sandbox import WllSandbox
from connector.service import connection_setup
from tests.platforms.plugins.daemon import Running, running

from .conftest import Browser

KEY = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
CONFIG = f"""\
[store]
url = "sqlite:///state.db"
min_free = "1MB"

[server]
port = 0

[security]
encryption_key = "{KEY}"

[console]
password = "change"
viewer_password = "look"
api_tokens = ["deploy:operator:op-token"]

[log]
level = "error"
"""
LINKS = "/connections/club"
NEW = "/connections/new"
FORM = f"{NEW}?source=wll"
DRAFT = f"{NEW}?name=club"
SECRETS = ("wll_sandbox", "wll_client_secret", "pk_sandbox")


class Site:
    """A daemon without connections, its platform, and a person who signed in."""

    def __init__(self, daemon: Running, wll: WllSandbox, http: httpx.AsyncClient) -> None:
        self.daemon = daemon
        self.wll = wll
        self.browser = Browser(http)

    def entries(self, **changed: str) -> dict[str, Any]:
        """What a person enters for the sandbox."""
        url = self.daemon.urls["wll"]
        return {
            "source": "wll",
            "name": "club",
            "settings.base_url": f"{url}/v1",
            "settings.auth_url": f"{url}/oauth/token",
            "settings.api_key": "wll_sandbox",
            "settings.client_id": "wll_client",
            "settings.client_secret": "wll_client_secret",
            "settings.webhook_secret": "",
            "klaviyo.private_key": "pk_sandbox",
            "modules-shown": "yes",
            "module": ["events", "profiles", "audiences", "actions"],
            **{key.replace("__", "."): value for key, value in changed.items()},
        }

    async def add(self, what: str = "save", page: str = FORM, **changed: str) -> httpx.Response:
        """Fill in the form and click a button."""
        fields = self.entries(**changed)
        return await self.browser.submit(page, NEW, what=what, **fields)

    async def stored(self) -> dict[str, Any]:
        settings = await self.daemon.app.store.settings.all()
        return {setting.key: setting for setting in settings}

    async def event(self, person: Any, *, at: str = "2026-11-01T10:00:00Z") -> None:
        """A delivery about this person."""
        event = {"type": "CASHBACK_REGISTERED", "reportedAt": at}
        body = json.dumps({**event, "subject": person.auth, "payload": {}}).encode()
        cipher = Cipher(self.daemon.app.config.security.encryption_key)
        secret = cipher.open((await self.stored())["settings.webhook_secret"].sealed)
        assert (await self.daemon.post("club", body, {}, secret))[0] == 202

    async def audit(self) -> list[tuple[str, str]]:
        found = await self.daemon.app.store.audit.find()
        return [(entry.what, entry.subject) for entry in found]


@pytest.fixture
async def site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> AsyncIterator[Site]:
    wll = WllSandbox(people=12)
    async with (
        running(tmp_path, CONFIG, {"wll": wll.app}, {}, monkeypatch) as daemon,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{daemon.app.port}", follow_redirects=True, timeout=30
        ) as http,
    ):
        found = Site(daemon, wll, http)
        await found.browser.sign_in("change")
        yield found


async def test_a_connection_is_made_from_an_empty_store_to_data_at_klaviyo(site: Site) -> None:
    """Also: nothing runs before it is saved, and what was entered can be completed later."""
    browser, app = site.browser, site.daemon.app
    assert "Add connection" in (await browser.get("/")).text
    assert "White Label Loyalty" in (await browser.get(NEW)).text

    wrong = await site.add("test", settings__api_key="mistyped", klaviyo__private_key="pk_wrong")
    assert "Not accepted: Klaviyo key" in wrong.text
    assert "K401" in wrong.text
    assert not app.runtimes["club"].enabled
    assert "club" in (await browser.get(NEW)).text, "it is offered to be continued"
    refused = await site.add("save", DRAFT, klaviyo__private_key="")
    assert "Not saved" in refused.text
    assert not app.runtimes["club"].enabled

    right = await site.add("test", DRAFT)
    assert "Both sides accept the credentials." in right.text
    assert "Accepted: Klaviyo key" in right.text
    assert not app.runtimes["club"].enabled
    empty = dict.fromkeys(("settings.api_key", "settings.client_secret"), "")
    saved = await browser.submit(
        DRAFT, NEW, what="save", **{**site.entries(), **empty, "klaviyo.private_key": ""}
    )
    assert "club is saved and active." in saved.text
    assert "Waiting for the first delivery" in saved.text

    shown = await browser.submit(DRAFT, "/connections/club/webhook")
    found = re.search(r'id="webhook-url"[^>]*>([^<]+)<', shown.text)
    assert found
    path = httpx.URL(found[1].strip()).path
    user = site.wll.people[0]
    event = {"type": "CASHBACK_REGISTERED", "reportedAt": "2026-11-01T10:00:00Z"}
    body = json.dumps({**event, "subject": user.auth, "payload": {"amount": 5}}).encode()
    assert (await site.daemon.post("club", body, {}, path.rsplit("/", 1)[1]))[0] == 202
    assert "First delivery received" in (await browser.get(DRAFT)).text

    links = (await browser.get("/connections/club/links")).text
    assert '<option value="Silver">' in links
    link = {"audience": "Silver", "list": "Silver members", "create_list": "yes"}
    asked = await browser.submit("/connections/club/links", f"{LINKS}/audiences/add", **link)
    members = [user for user in site.wll.people if user.tier[0] == "Silver"]
    assert members
    assert f"<dd>{len(members)}</dd>" in asked.text
    assert "a new list" in asked.text
    await browser.submit(
        "/connections/club/links", f"{LINKS}/audiences/add", confirmed="yes", **link
    )
    await app.until_idle()
    assert site.daemon.klaviyo.profile(user.email)
    lists = site.daemon.klaviyo.list_ids()
    on_list = site.daemon.klaviyo.list_members(lists["Silver members"])
    assert {member.email for member in members} == set(on_list)


async def test_what_was_made_here_survives_a_restart_and_is_exported(
    site: Site, tmp_path: Path
) -> None:
    await site.add()
    config = site.daemon.app.config
    assert config.origin("connections.club.settings.client_id") == "run time"
    exported = export(config)
    [club] = tomllib.loads(exported.text)["connections"]
    assert club["source"] == "wll"
    assert club["settings"]["client_id"] == "wll_client"
    for secret in SECRETS:
        assert secret not in exported.text
    again = await site.daemon.app._read_config()  # what the next start reads
    assert again.connection("club").enabled
    assert again.connection("club").settings.client_id == "wll_client"


async def test_secrets_are_stored_encrypted_and_reach_no_browser_and_no_queue(site: Site) -> None:
    await site.add("test")
    await site.add("save", DRAFT)
    stored = await site.stored()
    cipher = Cipher(site.daemon.app.config.security.encryption_key)
    assert cipher.open(stored["klaviyo.private_key"].sealed) == "pk_sandbox"
    assert stored["settings.api_key"].value is None
    generated = cipher.open(stored["settings.webhook_secret"].sealed)
    assert len(generated) == 32
    pages = [NEW, DRAFT, LINKS, *(f"{LINKS}/{tab}" for tab in ("fields", "links", "settings"))]
    shown = "".join([(await site.browser.get(page)).text for page in [*pages, "/audit"]])
    flow_secret = cipher.open(stored["actions.secret"].sealed)
    for secret in (*SECRETS, generated, flow_secret):
        assert secret not in shown
    commands = [await site.daemon.app.store.commands.get(id) for id in range(1, 5)]
    for secret in (*SECRETS, generated, flow_secret):
        assert secret not in repr(commands)
        assert secret not in repr(await site.audit())
    revealed = await site.browser.submit(f"{LINKS}/settings", f"{LINKS}/webhook")
    assert generated in revealed.text
    assert ("secret_shown", "webhook address and secret") in await site.audit()


async def test_what_is_entered_wrong_is_named_and_nothing_is_stored(site: Site) -> None:
    cases = [
        ({"name": "Not a name"}, "a name of a-z"),
        ({"name": "new"}, "a page of the console"),
        ({"settings__base_url": "ftp://x"}, "a URL that starts with"),
        ({"settings__rate_per_second": "fast"}, "no number"),
        ({"settings__paths": 'user = "users"'}, "user: found &#34;users&#34;, allowed a path"),
    ]
    for changed, fault in cases:
        answer = await site.add("test", **changed)
        assert answer.status_code == 422, changed
        assert fault in answer.text, changed
    assert await site.stored() == {}
    assert not site.daemon.app.runtimes


async def test_a_connection_that_is_not_in_use_yet_is_no_error(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(kind: str, args: Any, **options: Any) -> Command:
        """A process that does not get round to it, or another replica that does it."""
        return Command(1, kind, args, Millis(0), ok=True, result={})

    monkeypatch.setattr(connection_setup, "_KNOWN_WITHIN", 0.0)
    monkeypatch.setattr(site.daemon.app.commands, "submit_and_wait", busy)
    answer = await site.add("test")
    assert answer.status_code == 200
    assert "not in use yet" in answer.text


async def test_a_name_that_is_taken_is_refused(site: Site) -> None:
    await site.add("save")
    again = await site.add("test", source="yotpo")
    assert again.status_code == 422
    assert "exists already" in again.text
    assert site.daemon.app.config.connection("club").source == "wll"


async def test_a_connection_that_is_not_active_is_removed_after_a_second_page(site: Site) -> None:
    await site.add("test")
    asked = await site.browser.submit(DRAFT, f"{LINKS}/remove")
    assert "<h1>Remove club?</h1>" in asked.text
    assert "club" in site.daemon.app.runtimes
    done = await site.browser.submit(DRAFT, f"{LINKS}/remove", confirmed="yes")
    assert "club is removed." in done.text
    assert await site.stored() == {}
    await site.add("save")
    refused = await site.browser.submit(f"{LINKS}/settings", f"{LINKS}/remove", confirmed="yes")
    assert "deactivate it first" in refused.text


async def test_others_run_on_while_a_connection_is_set_up(site: Site) -> None:
    await site.add("save")
    app = site.daemon.app
    # It is built once more when Klaviyo has named its account.
    await app.connections.until_confirmed("club")
    club = app.runtimes["club"]
    await site.add("test", name="second", klaviyo__private_key="pk_other")
    await site.add("test", f"{NEW}?name=second", name="second", settings__api_key="mistyped")
    assert app.runtimes["club"] is club
    assert "club" in app.connections.running
    # It writes what the first one writes to the same account, so it cannot be active beside it.
    refused = await site.add("save", f"{NEW}?name=second", name="second")
    assert "which connections.club writes to the same Klaviyo account" in refused.text
    assert app.runtimes["club"] is club
    assert not app.runtimes["second"].enabled


async def test_settings_show_their_origin_and_are_changed(site: Site) -> None:
    await site.add("save")
    page = (await site.browser.get(f"{LINKS}/settings")).text
    assert "Set here by operator" in page
    fields = {"settings.rate_per_second": "7", "settings.api_key": ""}
    changed = await site.browser.submit(f"{LINKS}/settings", f"{LINKS}/settings", **fields)
    assert "1 changed, and in effect." in changed.text
    assert site.daemon.app.config.connection("club").settings.rate_per_second == 7
    back = {"settings.rate_per_second": "80"}
    await site.browser.submit(f"{LINKS}/settings", f"{LINKS}/settings", **back)
    assert "settings.rate_per_second" not in await site.stored()
    wrong = {"settings.api_key": "mistyped", "settings.rate_per_second": "0"}
    refused = await site.browser.submit(f"{LINKS}/settings", f"{LINKS}/settings", **wrong)
    assert refused.status_code == 422
    assert "mistyped" not in refused.text
    cipher = Cipher(site.daemon.app.config.security.encryption_key)
    sealed = (await site.stored())["settings.api_key"].sealed
    assert cipher.open(sealed) == "wll_sandbox", "all or nothing"


async def change(site: Site, what: str = "", **fields: str) -> httpx.Response:
    page = f"{LINKS}/settings"
    entered = {key.replace("__", "."): value for key, value in fields.items()}
    return await site.browser.submit(page, page, what=what, **entered)


async def test_credentials_that_are_refused_are_not_saved(site: Site) -> None:
    await site.add("save")
    # It is built once more when Klaviyo has named its account.
    await site.daemon.app.connections.until_confirmed("club")
    before = await site.stored()
    for fields in ({"klaviyo__private_key": "pk_wrong"}, {"settings__api_key": "mistyped"}):
        for what in ("test", ""):
            refused = await change(site, what, settings__rate_per_second="7", **fields)
            assert refused.status_code == 422
            assert "Nothing was saved: not accepted." in refused.text
            assert "Not accepted:" in refused.text
            assert 'value="7"' in refused.text, "what is no secret stays in the form"
            assert not set(fields.values()) & set(refused.text.split('"'))
    assert await site.stored() == before
    assert "Both sides accept the credentials." in (await change(site, "test")).text


async def test_only_the_side_whose_credentials_change_is_asked(site: Site) -> None:
    """So that one side is corrected while the other one refuses its own."""
    await site.add("save")
    site.daemon.klaviyo.faults.add("*", "status", status=401)
    saved = await change(site, settings__api_key="wll_sandbox", settings__rate_per_second="7")
    assert "2 changed, and in effect." in saved.text
    assert "could not be tested" not in saved.text


async def test_an_accepted_key_is_saved_only_on_request(site: Site) -> None:
    await site.add("save")
    site.daemon.klaviyo.keys.add("pk_next")
    before = await site.stored()
    tested = await change(site, "test", klaviyo__private_key="pk_next")
    assert "accepted, and not saved yet" in tested.text
    assert "pk_next" not in tested.text
    assert await site.stored() == before
    saved = await change(site, klaviyo__private_key="pk_next")
    assert "1 changed, and in effect." in saved.text
    key = site.daemon.app.config.connection("club").klaviyo.private_key
    assert key.get_secret_value() == "pk_next"


async def test_the_audit_log_says_where_credentials_were_sent_for_a_test(site: Site) -> None:
    """The stored secrets go along to an address that is entered, and nothing is saved."""
    await site.add("save")
    await change(site, "test", settings__api_key="mistyped", settings__rate_per_second="7")
    found = await site.daemon.app.store.audit.find()
    [entry] = [entry for entry in found if entry.what == "credentials_tested"]
    assert entry.connection == "club"
    assert entry.after == {"settings.api_key": "***", "settings.rate_per_second": 7}


async def test_a_side_that_is_away_does_not_prevent_saving(site: Site) -> None:
    await site.add("save")
    site.daemon.klaviyo.keys.add("pk_next")
    site.daemon.klaviyo.faults.add("*", "status", status=503)
    tested = await change(site, "test", klaviyo__private_key="pk_next")
    assert "not tested, because the other side is away" in tested.text
    saved = await change(site, klaviyo__private_key="pk_next")
    assert "1 changed, and in effect. The credentials could not be tested (" in saved.text
    key = site.daemon.app.config.connection("club").klaviyo.private_key
    assert key.get_secret_value() == "pk_next"


async def test_fields_are_switched_after_a_preview_of_a_customer(site: Site) -> None:
    await site.add("save")
    app, user = site.daemon.app, site.wll.people[0]
    await site.event(user)
    await app.until_idle()
    page = f"{LINKS}/fields"
    shown = (await site.browser.get(page)).text
    for words in ("text · from tier.name", "text · from accountNumber", "First name"):
        assert words in shown
    assert "raw." not in shown
    ticked = {"fields": ["wll_balance", "wll_next_tier_name"], "metrics": ["Points Adjusted"]}
    shown = await site.browser.submit(page, page, what="preview", who=user.email, **ticked)
    assert re.search(r"wll_tier_name</th><td>[^<]+</td><td>no longer written", shown.text)
    assert re.search(r"wll_balance</th><td>(\d+)</td><td>\1</td>", shown.text)
    assert "wll_next_tier_name</th><td>–</td>" in shown.text
    assert (await site.browser.get(page)).text.count("switched by") == 0, "nothing is stored"
    saved = await site.browser.submit(page, page, what="save", **ticked)
    assert "a backfill sends it to the others" in saved.text
    changes = app.config.connection("club").mapping_changes["profile"]["fields"]
    assert changes["wll_tier_name"] == {"enabled": False}
    assert changes["wll_next_tier_name"] == {"enabled": True}
    assert "wll_balance" not in changes
    unknown = await site.browser.submit(page, page, what="preview", who="x@example.com", **ticked)
    assert "no customer with this address" in unknown.text


async def test_a_link_is_removed_after_a_second_page(site: Site) -> None:
    await site.add("save")
    link = {
        "audience": "Silver",
        "list": "Silver members",
        "create_list": "yes",
        "confirmed": "yes",
    }
    await site.browser.submit(f"{LINKS}/links", f"{LINKS}/audiences/add", **link)
    asked = await site.browser.submit(f"{LINKS}/links", f"{LINKS}/audiences/0/remove")
    assert "<h1>Remove Silver → Silver members?</h1>" in asked.text
    assert site.daemon.app.config.connection("club").audiences
    await site.browser.submit(f"{LINKS}/links", f"{LINKS}/audiences/0/remove", confirmed="yes")
    assert not site.daemon.app.config.connection("club").audiences
    gone = await site.browser.submit(f"{LINKS}/links", f"{LINKS}/audiences/0/remove")
    assert gone.status_code == 404


async def test_flows_and_numbers_are_shown_before_a_list_is_linked(site: Site) -> None:
    await site.add("save")
    klaviyo = site.daemon.klaviyo
    made = klaviyo.make_list("VIP", "a@example.com", "b@example.com")
    klaviyo.flows.add("Welcome VIPs", "live", "Added to List", made)
    link = {"audience": "Silver", "list": "VIP"}
    asked = await site.browser.submit(f"{LINKS}/links", f"{LINKS}/audiences/add", **link)
    assert "Welcome VIPs" in asked.text
    assert "<dd>2</dd>" in asked.text
    await site.browser.submit(f"{LINKS}/links", f"{LINKS}/audiences/add", confirmed="yes", **link)
    await site.daemon.app.until_idle()
    for _ in range(100):  # a page may show a status that is a second old
        page = (await site.browser.get(f"{LINKS}/links")).text
        if "It waits for you." in page:
            break
        await asyncio.sleep(0.1)
    assert "Welcome VIPs" in page
    assert "Approve" in page


CHANGES = [
    NEW,
    f"{LINKS}/webhook",
    f"{LINKS}/remove",
    f"{LINKS}/fields",
    f"{LINKS}/audiences/add",
    f"{LINKS}/audiences/0/remove",
    f"{LINKS}/settings",
    f"{LINKS}/connect",
    f"{LINKS}/disconnect",
]


async def test_a_viewer_sees_and_changes_nothing(site: Site) -> None:
    """And without its token no form does anything."""
    await site.add("save")
    before = await site.stored()
    for path in CHANGES:
        assert (await site.browser.http.post(path, data={"confirmed": "yes"})).status_code == 403
    site.browser.http.cookies.clear()
    await site.browser.sign_in("look")
    for tab in ("fields", "links", "settings"):
        page = await site.browser.get(f"{LINKS}/{tab}")
        assert page.status_code == 200
        assert ">Save<" not in page.text
    token = re.search(r'name="csrf_token" value="([^"]+)"', (await site.browser.get("/")).text)
    assert token
    for path in CHANGES:
        fields = {"csrf_token": token[1], "confirmed": "yes", "what": "save", **site.entries()}
        assert (await site.browser.http.post(path, data=fields)).status_code == 403, path
    assert await site.stored() == before


async def test_without_an_encryption_key_the_page_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> None:
    config = CONFIG.replace(f'encryption_key = "{KEY}"', "")
    wll = WllSandbox(people=2)
    async with (
        running(tmp_path, config, {"wll": wll.app}, {}, monkeypatch) as daemon,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{daemon.app.port}", follow_redirects=True, timeout=30
        ) as http,
    ):
        site = Site(daemon, wll, http)
        await site.browser.sign_in("change")
        assert "CONNECTOR_ENCRYPTION_KEY" in (await site.browser.get(NEW)).text
        answer = await site.add("test")
        assert answer.status_code == 422
        assert "CONNECTOR_ENCRYPTION_KEY" in answer.text
        assert await site.stored() == {}
