"""An account is connected by OAuth: what a person's browser sees, and what is refused."""

from __future__ import annotations

import asyncio
import html
import re

import pytest
from sqlalchemy import select

from connector.domain.oauth import KLAVIYO_OAUTH
from connector.store.tables import secrets
from tests.oauth.conftest import Browser, Rig, query
from tests.waiting import async_until


async def test_what_waited_is_delivered_once_the_account_is_connected(rig: Rig) -> None:
    async with rig.daemon() as app:
        await rig.event()
        lane = app.runtimes["acme"].events
        await async_until("the lane is blocked", lambda: lane.state.mode == "blocked")
        assert lane.state.problem == "K620"
        assert lane.state.detail == "no token is stored"
        page = await rig.connect()
        assert page.status_code == 200
        assert "acme is connected to the Klaviyo account SANDBX" in page.text
        await rig.until_events(1)
        assert await app.store.facts.pinned_account("acme") == "SANDBX"
        [entry] = [e for e in await app.store.audit.find() if e.what == "connect"]
        assert (entry.by, entry.subject) == ("loopback", "account: SANDBX")


async def test_another_host_name_leads_to_the_public_address_once(rig: Rig) -> None:
    """The cookie belongs to the host that Klaviyo sends the browser back to."""
    async with rig.daemon(), Browser() as browser:
        start = rig.start.replace("127.0.0.1", "localhost", 1)
        first = await browser.get(start)
        assert first.headers["location"].startswith(f"{rig.url}/oauth/klaviyo/start?")
        # A proxy that rewrites Host must not cause a circle.
        second = await browser.get(first.headers["location"], headers={"host": "connector:8787"})
        assert second.headers["location"].startswith(rig.urls["klaviyo"])


async def test_the_request_to_klaviyo_is_as_documented(rig: Rig) -> None:
    async with rig.daemon(), Browser() as browser:
        answer = await browser.get(rig.start)
        sent = query(answer.headers["location"])
        assert answer.status_code == 303
        assert answer.headers["location"].startswith(f"{rig.urls['klaviyo']}/oauth/authorize?")
        assert sent["response_type"] == "code"
        assert sent["redirect_uri"] == f"{rig.url}/oauth/klaviyo/callback"
        assert sent["code_challenge_method"] == "S256"
        assert len(sent["state"]) >= 43
        assert "accounts:read" in sent["scope"].split()
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert "secure" not in cookie.replace("connector_oauth", "")


async def test_the_consent_page_leads_back(rig: Rig) -> None:
    async with rig.daemon(), Browser() as browser:
        consent = await browser.authorize(rig.start)
        fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', consent.text))
        form = {key: html.unescape(value) for key, value in fields.items()} | {"decision": "allow"}
        decided = await browser.post(f"{rig.urls['klaviyo']}/oauth/authorize", data=form)
        page = await browser.get(decided.headers["location"])
        assert "acme is connected" in page.text


async def test_no_token_is_readable_in_the_store_or_shown(
    rig: Rig, capfd: pytest.CaptureFixture[str]
) -> None:
    async with rig.daemon() as app:
        page = await rig.connect()
        install = rig.klaviyo.oauth.install
        assert install is not None
        planted = [install.refresh_token, *install.access_tokens, "sandbox-app-secret"]
        row = await app.store.secrets.get("acme", KLAVIYO_OAUTH)
        shown = page.text + repr(row) + repr(app.runtimes["acme"])
        await app.commands.execute("disconnect", {"connection": "acme"})
    written = b"".join(file.read_bytes() for file in rig.folder.glob("state.db*")).decode("latin-1")
    out, err = capfd.readouterr()
    assert not [token for token in planted if token in shown + written + out + err]


# ── who may start ────────────────────────────────────────────────────────────────────────────────


async def test_without_a_connection_the_page_asks_which(rig: Rig) -> None:
    async with rig.daemon(), Browser() as browser:
        page = await browser.get(f"{rig.url}/oauth/klaviyo/start")
        assert page.status_code == 200
        assert 'href="start?connection=acme"' in page.text


@pytest.mark.parametrize(
    "headers", [{"x-forwarded-for": "203.0.113.9"}, {"via": "1.1 proxy"}, {"host": "shop.example"}]
)
async def test_a_stranger_cannot_connect_an_account_of_their_own(
    rig: Rig, headers: dict[str, str]
) -> None:
    async with rig.daemon(), Browser() as browser:
        for path in ("?connection=acme", "", "?connection=acme&ticket=guess"):
            page = await browser.get(f"{rig.url}/oauth/klaviyo/start{path}", headers=headers)
            assert page.status_code == 403
            assert "connector connect" in page.text


async def test_a_ticket_allows_whoever_has_it(rig: Rig) -> None:
    rig.klaviyo.oauth.consent = "allow"
    async with rig.daemon() as app, Browser() as browser:
        address = await app.oauth.ticket("acme", by="ana")
        answer = await browser.get(address, headers={"x-forwarded-for": "203.0.113.9"})
        assert answer.status_code == 303
        other = address.replace("connection=acme", "connection=other")
        page = await browser.get(other, headers={"x-forwarded-for": "203.0.113.9"})
        assert page.status_code == 403


async def test_an_operator_signs_in_with_the_consoles_password(rig: Rig) -> None:
    file = rig.write()
    file.write_text('[console]\npassword = "open sesame"\n' + file.read_text())
    outside = {"x-forwarded-for": "203.0.113.9"}
    async with rig.daemon(), Browser(headers=outside) as browser:
        start = f"{rig.url}/oauth/klaviyo/start"
        assert 'type="password"' in (await browser.get(start)).text
        wrong = {"connection": "acme", "password": "guess"}
        assert (await browser.post(start, data=wrong)).status_code == 401
        right = {"connection": "acme", "password": "open sesame"}
        assert (await browser.post(start, data=right)).status_code == 303
        statuses = {(await browser.post(start, data=wrong)).status_code for _ in range(100)}
        assert statuses == {401, 429}


async def test_who_is_signed_in_is_not_asked_again(rig: Rig) -> None:
    file = rig.write()
    console = '[console]\npassword = "open sesame"\nviewer_password = "look"\n'
    file.write_text(console + file.read_text())
    start = f"{rig.url}/oauth/klaviyo/start"
    async with rig.daemon(), Browser() as browser:
        # A configured password is asked for on this machine as well, and a viewer's does not do.
        assert 'type="password"' in (await browser.get(rig.start)).text
        viewer = {"connection": "acme", "password": "look"}
        refused = await browser.post(start, data=viewer)
        assert refused.status_code == 403
        assert "operator" in refused.text
        assert 'type="password"' in (await browser.get(rig.start)).text
        operator = {"connection": "acme", "password": "open sesame"}
        signed_in = await browser.post(start, data=operator)
        cookies = signed_in.headers.get_list("set-cookie")
        [session] = [cookie.lower() for cookie in cookies if "connector_session" in cookie]
        assert "httponly" in session
        assert "samesite=lax" in session
        assert (await browser.get(rig.start)).status_code == 303
        assert (await browser.get(f"{rig.url}/api/v1/status")).status_code == 200


async def test_a_password_that_the_files_no_longer_have_ends_with_a_reload(rig: Rig) -> None:
    file = rig.write()
    rest = file.read_text()
    tokens = 'api_tokens = ["ci:operator:first-token"]'
    file.write_text(f'[console]\npassword = "first"\n{tokens}\n{rest}')
    status = f"{rig.url}/api/v1/status"
    start = f"{rig.url}/oauth/klaviyo/start"
    token = {"authorization": "Bearer first-token"}
    async with rig.daemon() as app, Browser() as browser:
        first = {"connection": "acme", "password": "first"}
        assert (await browser.post(start, data=first)).status_code == 303
        assert (await browser.get(status)).status_code == 200
        assert (await browser.get(status, headers=token)).status_code == 200
        file.write_text(f'[console]\npassword = "second"\n{rest}')
        await app.reload()
        assert (await browser.get(status)).status_code == 401
        assert (await browser.get(status, headers=token)).status_code == 401
        assert (await browser.post(start, data=first)).status_code == 401
        second = first | {"password": "second"}
        assert (await browser.post(start, data=second)).status_code == 303


async def test_a_connection_with_a_private_key_is_not_connected(rig: Rig) -> None:
    async with rig.daemon(), Browser() as browser:
        page = await browser.get(f"{rig.url}/oauth/klaviyo/start?connection=other")
        assert page.status_code == 400
        assert "acme" in page.text


# ── what is refused ──────────────────────────────────────────────────────────────────────────────


async def is_connected(rig: Rig) -> bool:
    return await rig.app.store.secrets.get("acme", KLAVIYO_OAUTH) is not None


async def test_a_person_who_refuses_changes_nothing(rig: Rig) -> None:
    rig.klaviyo.oauth.consent = "deny"
    async with rig.daemon(), Browser() as browser:
        page = await browser.authorize(rig.start)
        assert page.status_code == 400
        assert "access was denied" in page.text
        assert not await is_connected(rig)


@pytest.mark.parametrize("state", ["", "wrong"])
async def test_a_wrong_state_is_refused_and_the_code_not_used(rig: Rig, state: str) -> None:
    async with rig.daemon(), Browser() as browser:
        back = await rig.callback(browser)
        sent = query(back)
        page = await browser.get(back.replace(sent["state"], state))
        assert page.status_code == 400
        assert "start again" in page.text
        assert rig.requests("POST /oauth/token") == {}
        assert (await browser.get(back)).status_code == 200


async def test_the_state_of_another_browser_is_refused(rig: Rig) -> None:
    async with rig.daemon(), Browser() as browser, Browser() as stranger:
        back = await rig.callback(browser)
        for cookies in ({}, {"connector_oauth": "guess"}):
            stranger.cookies.clear()
            stranger.cookies.update(cookies)
            page = await stranger.get(back)
            assert page.status_code == 400
            assert "another browser" in page.text
        assert not await is_connected(rig)


async def test_a_callback_is_used_once(rig: Rig) -> None:
    async with rig.daemon(), Browser() as browser:
        back = await rig.callback(browser)
        assert (await browser.get(back)).status_code == 200
        again = await browser.get(back)
        assert again.status_code == 400
        assert "used before" in again.text
        assert rig.klaviyo.oauth.install is not None, "the code was not replayed at Klaviyo"


async def test_a_code_that_was_used_elsewhere_is_refused(rig: Rig) -> None:
    async with rig.daemon(), Browser() as browser:
        first, second = await rig.callback(browser), await rig.callback(browser)
        assert (await browser.get(second)).status_code == 200
        replay = first.replace(query(first)["code"], query(second)["code"])
        async with Browser() as other:
            replay = (await rig.callback(other)).replace("code=", "code=x")
            page = await other.get(replay)
        assert page.status_code == 400
        assert "invalid_grant" in page.text


async def test_an_expired_code_is_refused(rig: Rig) -> None:
    rig.klaviyo.oauth.code_lifetime = -1.0
    async with rig.daemon():
        page = await rig.connect()
        assert page.status_code == 400
        assert "valid once and for 5 minutes" in page.text
        assert not await is_connected(rig)


async def test_a_redirect_address_that_is_not_registered_is_refused(rig: Rig) -> None:
    rig.klaviyo.oauth.redirect_uris = ["https://shop.example/oauth/klaviyo/callback"]
    async with rig.daemon():
        page = await rig.connect()
        assert page.status_code == 400
        assert "redirect URI is not registered" in page.text
        assert not await is_connected(rig)


async def test_a_token_endpoint_that_does_not_answer_changes_nothing(rig: Rig) -> None:
    rig.klaviyo.faults.add("oauth/token", "reset_after")
    async with rig.daemon():
        page = await rig.connect()
        assert page.status_code == 400
        assert "could not be exchanged" in page.text
        assert not await is_connected(rig)
        rig.klaviyo.faults.clear()
        assert (await rig.connect()).status_code == 200


async def test_a_wrong_app_secret_is_named(rig: Rig) -> None:
    rig.write(secret="wrong")
    async with rig.daemon():
        page = await rig.connect()
        assert page.status_code == 400
        assert "invalid_client" in page.text


async def test_a_scope_that_was_not_granted_is_named_with_what_it_affects(rig: Rig) -> None:
    rig.klaviyo.oauth.granted = ["accounts:read", "events:write", "profiles:write"]
    async with rig.daemon():
        page = await rig.connect()
        assert "lists:write" in page.text
        assert "audiences cannot be kept as lists" in page.text
        attention = await rig.attention()
        assert "K403 acme: the scope lists:write was not granted" in attention


async def test_without_the_scope_for_the_account_nothing_is_connected(rig: Rig) -> None:
    rig.klaviyo.oauth.granted = ["events:write"]
    async with rig.daemon():
        page = await rig.connect()
        assert page.status_code == 400
        assert "accounts:read" in page.text
        assert not await is_connected(rig)


# ── another account ──────────────────────────────────────────────────────────────────────────────


async def test_another_account_is_used_only_after_it_was_confirmed(rig: Rig) -> None:
    async with rig.daemon() as app:
        await rig.connect()
        rig.klaviyo.account_id = "OTHER1"
        before = await app.store.secrets.get("acme", KLAVIYO_OAUTH)
        async with Browser() as browser:
            page = await browser.authorize(rig.start)
            assert page.status_code == 409
            assert "K600" in page.text
            assert await app.store.secrets.get("acme", KLAVIYO_OAUTH) == before
            [confirmation] = re.findall(r'name="confirmation" value="([^"]+)"', page.text)
            form = {"confirmation": confirmation}
            async with Browser() as stranger:
                refused = await stranger.post(f"{rig.url}/oauth/klaviyo/confirm", data=form)
                assert refused.status_code == 400
            page = await browser.post(f"{rig.url}/oauth/klaviyo/confirm", data=form)
        assert "connected to the Klaviyo account OTHER1" in page.text
        assert await app.store.facts.pinned_account("acme") == "OTHER1"
        await rig.event()
        await rig.until_events(1)


# ── disconnect ───────────────────────────────────────────────────────────────────────────────────


async def test_disconnect_removes_the_app_at_klaviyo_and_loses_nothing(rig: Rig) -> None:
    async with rig.daemon() as app:
        await rig.connect()
        done, _ = await app.commands.execute("disconnect", {"connection": "acme"})
        assert done
        assert rig.klaviyo.oauth.install is None
        assert await app.store.secrets.get("acme", KLAVIYO_OAUTH) is None
        await rig.event()
        await rig.connect()
        await rig.until_events(1)


async def test_disconnect_changes_nothing_while_klaviyo_cannot_be_reached(rig: Rig) -> None:
    async with rig.daemon() as app:
        await rig.connect()
        rig.klaviyo.faults.add("oauth/revoke", "reset_before")
        done, result = await app.commands.execute("disconnect", {"connection": "acme"})
        assert not done
        assert "error" in result
        assert await is_connected(rig)


async def test_an_app_removed_at_klaviyo_pauses_the_account_and_loses_nothing(rig: Rig) -> None:
    async with rig.daemon() as app:
        await rig.connect()
        rig.klaviyo.oauth.uninstall()
        await rig.event()
        lane = app.runtimes["acme"].events
        await async_until("the lane is blocked", lambda: lane.state.mode == "blocked")
        assert lane.state.problem == "K610"
        assert "connector connect acme" in await rig.attention()
        refused = rig.requests("POST /oauth/token").get("400", 0)
        await asyncio.sleep(0.5)  # several probes
        assert rig.requests("POST /oauth/token").get("400", 0) == refused == 1
        await rig.connect()
        await rig.until_events(1)
        await rig.until_attention_ends("K610")


async def test_secrets_are_sealed(rig: Rig) -> None:
    async with rig.daemon() as app:
        await rig.connect()
        rows = await app.store.database.read(
            lambda c: list(c.execute(select(secrets.c.sealed)).scalars())
        )
        assert all(row.startswith("gAAAA") for row in rows)
