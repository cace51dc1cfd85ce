"""Every page, and what its forms do. No script is needed for any of it."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import unquote

import httpx
import pytest

from connector.config.models import Console as ConsoleConfig
from connector.domain.errors import Problem
from connector.domain.remedies import Page
from connector.ports import ANY_DEAD_LETTER, DeadLetterFilter, ProcessState
from connector.service.process import ConnectionReport, ProcessReport
from connector.testing.contracts.profile_harness import refuse_profile
from tests.web.api.conftest import ApiHarness

from .conftest import ConsoleHarness

PAGES = [
    "/",
    "/attention",
    "/dead-letters",
    "/dead-letters/1",
    "/backfills",
    "/people",
    "/audit",
    "/webhook-builder?connection=acme&amount=5&reason=Test",
    "/connections/acme",
]
_INLINE = re.compile(r"<style|style=|\son[a-z]+=|<script(?![^>]*src=)")


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_has_one_heading_landmarks_and_nothing_inline(
    console: ConsoleHarness, path: str
) -> None:
    await console.api.dead_letters("a")
    answer = await console.browser().get(path)
    assert answer.status_code == 200
    assert answer.text.count("<h1>") == 1
    for landmark in ("<header", "<nav", '<main id="main"', "<footer"):
        assert landmark in answer.text
    assert not _INLINE.search(answer.text)
    assert "'unsafe" not in answer.headers["content-security-policy"]
    assert len(answer.content) < 60_000


@pytest.mark.parametrize("place", [page for page in Page if page is not Page.NONE])
async def test_a_remedy_names_a_page_as_the_navigation_does(
    console: ConsoleHarness, place: Page
) -> None:
    page = (await console.browser().get("/connections/acme")).text
    path = place.path("acme", "").partition("?")[0]
    assert re.search(f'<a href="{path}"[^>]*>{place}<', page)


async def test_pages_and_their_assets_load_nothing_from_elsewhere(console: ConsoleHarness) -> None:
    browser = console.browser()
    page = (await browser.get("/")).text
    assets = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert len(assets) == 3
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", page.replace("127.0.0.1", ""))
    for asset in assets:
        answer = await browser.get(asset)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert "//" not in re.sub(r"(?m)^\s*//.*$|http://www\.w3\.org/\S+", "", answer.text)


async def test_records_are_retried_after_a_second_page(console: ConsoleHarness) -> None:
    await console.api.dead_letters(*"abc")
    await console.api.dead_letters("d", problem=Problem.MAPPING_FAILED)
    browser = console.browser()
    query = "/dead-letters?cause=K400"
    fields = {"what": "retry", "all": "yes", "cause": "K400", "count": "3"}
    asked = await browser.submit(query, "/dead-letters", **fields)
    assert "<h1>Retry 3 records?</h1>" in asked.text
    done = await browser.submit(query, "/dead-letters", confirmed="yes", **fields)
    assert "3 records will be sent again." in done.text
    assert await console.api.store.dead_letters.count(ANY_DEAD_LETTER) == 1


async def test_a_filter_that_matches_other_records_by_now_changes_nothing(
    console: ConsoleHarness,
) -> None:
    await console.api.dead_letters(*"abc")
    answer = await console.browser().submit(
        "/dead-letters",
        "/dead-letters",
        what="retry",
        all="yes",
        count="2",
        confirmed="yes",
    )
    assert "3 records match by now, not 2" in answer.text
    assert await console.api.store.dead_letters.count(ANY_DEAD_LETTER) == 3


async def test_a_retry_of_many_shows_how_far_it_has_come() -> None:
    api = ApiHarness(ConsoleConfig())  # without the loop that carries commands out
    await api.open()
    queue, browser = api.store.commands, ConsoleHarness(api).browser()
    now = api.clock.now()
    id = await queue.submit("retry", {"all": True}, by="ana", key="", now=now)
    await queue.fetch(now=now)
    await queue.report(id, {"done": 2_000, "total": 21_400})
    page = f"/dead-letters?command={id}"
    text = (await browser.get(page)).text
    assert "2,000 of 21,400 records" in text
    assert '<progress max="100" value="9.3"' in text
    done = {"retried": 21_400, "waiting_for_an_address": 0}
    await queue.finish(id, ok=True, result=done, now=now)
    assert "21,400 records will be sent again." in (await browser.get(page)).text
    other = await queue.submit("forget", {"person": "ana@example.com"}, by="ana", key="", now=now)
    assert "ana@" not in (await browser.get(f"/dead-letters?command={other}")).text
    assert (await browser.get("/dead-letters?command=x")).status_code == 404
    await browser.http.aclose()


async def test_discarding_asks_once_and_keeps_the_others(console: ConsoleHarness) -> None:
    await console.api.dead_letters(*"ab")
    first, second = sorted(x.id for x in await console.api.store.dead_letters.find())
    browser = console.browser()
    fields = {"what": "discard", "id": str(first)}
    asked = await browser.submit("/dead-letters", "/dead-letters", **fields)
    assert "This cannot be undone." in asked.text
    assert await console.api.store.dead_letters.count(ANY_DEAD_LETTER) == 2
    done = await browser.submit("/dead-letters", "/dead-letters", confirmed="yes", **fields)
    assert "1 record discarded." in done.text
    [left] = await console.api.store.dead_letters.find(DeadLetterFilter())
    assert left.id == second


async def test_a_record_shows_what_was_received(console: ConsoleHarness) -> None:
    await console.api.dead_letters("a")
    [letter] = await console.api.store.dead_letters.find()
    answer = await console.browser().get(f"/dead-letters/{letter.id}")
    assert "<h1>Record" in answer.text
    assert "K400" in answer.text
    assert (await console.browser().get("/dead-letters/999")).status_code == 404


async def test_a_person_is_found_without_an_address_in_the_url(console: ConsoleHarness) -> None:
    await console.api.dead_letters("ana")
    answer = await console.browser().submit("/people", "/people", who="ANA@example.com")
    assert "<h1>ana@example.com</h1>" in answer.text
    assert "ana@" not in unquote(str(answer.url))
    assert "Balance changed" in answer.text
    unknown = await console.browser().submit("/people", "/people", who="else@example.com")
    assert "No person has this address or id." in unknown.text


async def test_people_with_something_that_failed_are_found_from_their_cause(
    console: ConsoleHarness,
) -> None:
    await console.api.dead_letters("eve")
    for name in ("ada", "bob"):
        await refuse_profile(console.api.store, console.api.fence, name)
    browser = console.browser()
    failed = (await browser.get("/dead-letters")).text
    link = "/people?connection=acme&amp;cause=K400"
    assert '<td class="n" data-label="Number">2</td>' in failed
    assert f'<th scope="row"><a href="{link}">' in failed
    page = (await browser.get(unescape(link))).text
    assert re.findall(r">(\w+@example\.com)<", page) == ["bob@example.com", "ada@example.com"]
    assert "ada is odd" in page
    [key] = re.findall(r'href="(/people/[^"?]+)">ada', page)
    assert "ada@example.com" in (await browser.get(key)).text
    assert "No one matches" in (await browser.get("/people?cause=E10")).text
    assert (await browser.get("/people?cursor=outbox:1")).status_code == 404
    which = {"connection": "acme", "cause": "K400"}
    answer = await browser.submit(unescape(link), "/people/refresh", **which)
    assert "only a running daemon" in answer.text


async def test_a_connection_is_paused_and_resumed(console: ConsoleHarness) -> None:
    browser = console.browser()
    paused = await browser.submit("/people", "/connections/acme/pause")
    assert "acme is paused" in paused.text
    [(_, state)] = await console.api.store.lanes.all()
    assert state.mode == "paused"
    await browser.submit("/people", "/connections/acme/resume")
    [(_, state)] = await console.api.store.lanes.all()
    assert state.mode == "running"


async def test_an_approval_is_answered_by_name(console: ConsoleHarness) -> None:
    asked = await console.api.store.approvals.request(
        "acme", "backfill", "3", {"people": 12, "flows": ["Welcome"]}, now=console.api.clock.now()
    )
    browser = console.browser()
    shown = await browser.get("/attention")
    assert "Backfill of 3" in shown.text
    assert "Welcome" in shown.text
    await browser.submit("/attention", f"/attention/approvals/{asked.id}/approve")
    [decided] = await console.api.store.approvals.find(pending=False)
    assert (decided.state, decided.decided_by) == ("approved", "loopback")


async def test_a_page_that_does_not_exist_says_so(console: ConsoleHarness) -> None:
    for path in ("/nothing", "/connections/other", "/people/forged"):
        answer = await console.browser().get(path)
        assert answer.status_code == 404
        assert "<h1>Page not found</h1>" in answer.text


async def test_a_webhook_is_built_and_its_secret_shown_on_request(console: ConsoleHarness) -> None:
    browser = console.browser()
    path = "/webhook-builder?connection=acme&action=increase&amount=100&reason=Welcome&trigger=list"
    built = (await browser.get(path)).text
    assert "http://127.0.0.1:8787/flows/acme/balance/increase" in built
    assert "a-flow-secret" not in built
    state = {"connection": "acme", "amount": "100", "reason": "Welcome", "trigger": "list"}
    shown = await browser.submit(path, "/webhook-builder", what="secret", **state)
    assert "a-flow-secret" in shown.text
    faulty = (await browser.get("/webhook-builder?connection=acme&amount=-5")).text
    assert 'role="alert"' in faulty


async def test_a_test_call_is_made_after_a_second_page(console: ConsoleHarness) -> None:
    browser, path = console.browser(), "/webhook-builder"
    fields = {
        "what": "send-test",
        "email": "test@example.com",
        "connection": "acme",
        "amount": "5",
        "reason": "Test",
    }
    asked = await browser.submit("/people", path, **fields)
    assert "Send a test for test@example.com?" in asked.text
    assert console.sent == []
    done = await browser.submit("/people", path, confirmed="yes", **fields)
    assert "→ 202" in done.text
    [(url, body)] = console.sent
    assert url.endswith("/flows/acme/balance/increase")
    assert b"test@example.com" in body


async def test_a_mapping_that_is_faulty_by_now_is_named_on_the_page(
    console: ConsoleHarness,
) -> None:
    # The harness's connection has a mapping whose file does not exist.
    answer = await console.browser().get("/use-in-klaviyo/acme")
    assert answer.status_code == 409
    assert "The configuration is not valid" in answer.text
    assert "jericommerce.toml" in answer.text


# ── who may do what ──────────────────────────────────────────────────────────────────────────────


async def test_a_sign_in_leads_to_the_page_that_was_asked_for(guarded: ConsoleHarness) -> None:
    browser = guarded.browser("203.0.113.9")
    asked = await browser.get("/dead-letters?cause=K400")
    assert str(asked.url).startswith("http://127.0.0.1/sign-in?next=")
    wrong = await browser.sign_in("wrong")
    assert wrong.status_code == 401
    assert "This is not the password." in wrong.text
    form = {"password": "change", "next": "/dead-letters?cause=K400"}
    answer = await browser.submit("/sign-in", "/sign-in", **form)
    assert str(answer.url) == "http://127.0.0.1/dead-letters?cause=K400"
    cookie = browser.http.cookies.jar
    assert {c.name for c in cookie} >= {"connector_session"}


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example"])
async def test_a_sign_in_leads_nowhere_else(guarded: ConsoleHarness, target: str) -> None:
    browser = guarded.browser()
    answer = await browser.submit("/sign-in", "/sign-in", password="change", next=target)
    assert str(answer.url) == "http://127.0.0.1/"


async def test_a_sign_in_after_a_wrong_password_leads_to_the_page_that_was_asked_for(
    guarded: ConsoleHarness,
) -> None:
    browser, asked = guarded.browser(), "/dead-letters?connection=acme&cause=K400"
    form = await browser.get(asked)
    for password, status in (("wrong", 401), ("wrong again", 401), ("change", 200)):
        fields = dict(re.findall(r'name="([^"]+)" value="([^"]*)"', unescape(form.text)))
        form = await browser.http.post("/sign-in", data=fields | {"password": password})
        assert form.status_code == status
    assert str(form.url).endswith(asked)


async def test_a_throttled_sign_in_says_when_to_try_again(guarded: ConsoleHarness) -> None:
    browser = guarded.browser()
    for _ in range(5):
        assert (await browser.sign_in("wrong")).status_code == 401
    refused = await browser.sign_in("change")
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 10


async def test_a_viewer_sees_pages_and_changes_nothing(guarded: ConsoleHarness) -> None:
    await guarded.api.dead_letters("a")
    browser = guarded.browser()
    await browser.sign_in("look")
    page = (await browser.get("/dead-letters")).text
    assert "Retry" not in page
    assert "Find person" not in (await browser.get("/people")).text
    [letter] = await guarded.api.store.dead_letters.find()
    assert "Only an operator can see" in (await browser.get(f"/dead-letters/{letter.id}")).text
    fields = {"what": "retry", "id": str(letter.id)}
    refused = await browser.submit("/dead-letters", "/dead-letters", **fields)
    assert refused.status_code == 403
    assert await guarded.api.store.dead_letters.count(ANY_DEAD_LETTER) == 1


async def post(browser: httpx.AsyncClient, **options: object) -> int:
    answer = await browser.post("/connections/acme/pause", **options)  # type: ignore[arg-type]
    return answer.status_code


async def test_a_form_without_its_token_or_from_elsewhere_is_refused(
    console: ConsoleHarness,
) -> None:
    mine, other = console.browser(), console.browser()
    page = (await mine.get("/people")).text
    found = re.search(r'csrf_token" value="([^"]+)"', page)
    assert found
    token = {"csrf_token": found[1]}
    assert await post(mine.http) == 403
    assert await post(mine.http, headers={"origin": "http://127.0.0.1"}) == 403
    assert await post(other.http, data=token) == 403
    elsewhere = {"origin": "http://evil.example"}
    assert await post(mine.http, data=token, headers=elsewhere) == 403
    assert await post(mine.http, data=token, headers={"sec-fetch-site": "cross-site"}) == 403
    assert await post(mine.http, data=token) == 200


async def test_strangers_are_refused_without_a_password(console: ConsoleHarness) -> None:
    answer = await console.browser("203.0.113.9").get("/")
    assert answer.status_code == 403
    assert "set [console] password" in answer.text


async def test_what_a_remote_side_sent_is_shown_as_text(console: ConsoleHarness) -> None:
    await console.api.dead_letters("<script>alert(1)</script>")
    answer = await console.browser().get("/dead-letters?q=<script>")
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/dead-letters/99999999999999999999",
        "/dead-letters?cursor=99999999999999999999",
        "/dead-letters?q=%00",
        "/connections/%00",
    ],
)
async def test_what_no_row_can_have_is_not_found(console: ConsoleHarness, path: str) -> None:
    assert (await console.browser().get(path)).status_code == 404


async def test_a_form_with_what_no_row_can_have_is_refused(console: ConsoleHarness) -> None:
    browser = console.browser()
    for action, fields in (
        ("/dead-letters", {"what": "retry", "id": "9" * 20}),
        ("/dead-letters", {"what": "retry", "all": "yes", "count": "many"}),
        ("/people", {"who": "a\0b"}),
    ):
        assert (await browser.submit("/people", action, **fields)).status_code == 400
    decided = await browser.submit("/people", f"/attention/actions/{'9' * 20}/applied")
    assert decided.status_code == 404


async def test_tokens_of_one_browser_differ_and_all_count(console: ConsoleHarness) -> None:
    browser = console.browser()
    pages = [(await browser.get("/people")).text for _ in range(2)]
    tokens = {t for page in pages for t in re.findall(r'csrf_token" value="([^"]+)"', page)}
    assert len(tokens) == 2
    for token in tokens:
        assert await post(browser.http, data={"csrf_token": token}) == 200
    for forged in ("", "00", "zz", "0" * len(next(iter(tokens))), next(iter(tokens))[:-2]):
        assert await post(browser.http, data={"csrf_token": forged}) == 403


async def test_a_long_page_is_compressed(console: ConsoleHarness) -> None:
    await console.api.dead_letters(*(f"a-record-with-a-long-key-{n}" for n in range(50)))
    answer = await console.browser().get("/dead-letters")
    assert answer.headers["content-encoding"] == "gzip"
    assert int(answer.headers["content-length"]) < len(answer.content) / 3


async def run_once(api: ApiHarness) -> None:
    """A process has run `acme` on this store, so that it has a card with a button."""
    acme = ConnectionReport(title="Yotpo", source="yotpo", mode="live", enabled=True, modules=())
    report = ProcessReport(version="1", public_url="", connections={"acme": acme})
    document = report.model_dump_json()
    await api.store.process_reports.save(
        ProcessState("one", api.clock.now(), frozenset(), document)
    )


async def test_a_page_that_is_shared_has_the_token_of_each_browser(console: ConsoleHarness) -> None:
    await run_once(console.api)
    one, other = console.browser(), console.browser()
    for browser in (one, other, one):
        shown = (await browser.get("/")).text
        token = re.search(r'csrf_token" value="([^"]+)"', shown)
        assert token
        assert await post(browser.http, data={"csrf_token": token[1]}) == 200


async def test_a_message_is_shown_once_and_to_no_one_else(console: ConsoleHarness) -> None:
    await run_once(console.api)
    one, other = console.browser(), console.browser()
    fields = {"from": "overview"}
    done = await one.submit("/people", "/connections/acme/pause", **fields)
    assert "acme is paused" in done.text
    assert 'class="flash' not in (await other.get("/")).text
    assert 'class="flash' not in (await one.get("/")).text


async def test_what_a_viewer_sees_of_a_shared_page_has_no_button(guarded: ConsoleHarness) -> None:
    await run_once(guarded.api)
    for password, buttons in (("change", True), ("look", False), ("change", True)):
        browser = guarded.browser()
        await browser.sign_in(password)
        assert ("Pause acme" in (await browser.get("/")).text) is buttons
