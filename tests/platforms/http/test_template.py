"""Templates that no value breaks, webhook requests of every shape, responses by their status."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Any
from urllib.parse import unquote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from connector.domain.actions import Action
from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Malformed,
    Rejected,
    RetryLater,
    Unauthorised,
)
from connector.domain.records import Record
from connector.net.rate_limit import RateLimiter
from connector.platforms.http import PLATFORM, for_settings
from connector.platforms.http.settings import Settings
from connector.platforms.http.template import (
    MissingValue,
    TemplateError,
    fill,
    fill_path,
    placeholders,
)
from connector.platforms.http.webhook import HttpWebhook
from connector.ports import Actions, Client, PersonRef
from connector.testing.contracts.platform import READS, make_kit
from tests.platforms.plugins.acme import SECRET, Acme, settings

HOSTILE = st.text(max_size=40) | st.sampled_from(
    ['"', "\\", '"}', "{ref}", "{{", "\n", "🎉", "%2e"]
)


# ── templates ────────────────────────────────────────────────────────────────────────────────────


def test_a_lone_placeholder_keeps_its_type_and_within_text_is_text() -> None:
    body = {"n": "{amount}", "t": "{amount} points", "b": "{earned}", "l": [{"{amount}": "{{a}}"}]}
    assert fill(body, {"amount": -5, "earned": True}) == {
        "n": -5,
        "t": "-5 points",
        "b": True,
        "l": [{"{amount}": "{a}"}],
    }


@given(reason=HOSTILE, email=HOSTILE)
def test_no_value_escapes_its_placeholder(reason: str, email: str) -> None:
    values = {"reason": reason, "email": email, "ref": "R"}
    filled = fill({"a": "{reason}", "b": "<{email}|{ref}>", "ref": "{ref}"}, values)
    assert orjson.loads(orjson.dumps(filled)) == {"a": reason, "b": f"<{email}|R>", "ref": "R"}


@given(email=HOSTILE)
def test_no_value_escapes_its_path_segment(email: str) -> None:
    try:
        path = fill_path("/a/{email}/b", {"email": email})
    except MissingValue:
        assert email in ("", ".", "..")
        return
    assert path.count("/") == 3
    assert not set("?#\\ ") & set(path)
    assert unquote(path[3:-2]) == email


@pytest.mark.parametrize("template", ["{", "a}", "{a{b}", ["{"], {"k": "}"}])
def test_a_lone_brace_is_a_fault(template: Any) -> None:
    with pytest.raises(TemplateError):
        list(placeholders(template))


@pytest.mark.parametrize("text", ["{email}", "to {email}"])
def test_a_placeholder_without_a_value_is_an_error(text: str) -> None:
    with pytest.raises(MissingValue, match="email"):
        fill({"k": [text]}, {"email": None})


# ── settings ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"base_url": ""}, "base_url beside profile and adjust"),
        ({"event": {"items": "a", "id_header": "x"}}, "either items, or id_header"),
        ({"profile": {"path": "/m", "view": {"tier": "t"}}}, 'not "tier"'),
        ({"profile": {"path": "/m", "view": {"balance": ""}}}, "balance"),
        ({"profile": {"path": "m", "view": {}}}, "pattern"),
        ({"adjust": {"path": "/{points}", "body": {"a": ["{no_such}"]}}}, "{no_such}"),
    ],
)
def test_invalid_settings_are_reported(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match="(?s)" + says.replace("{", r"\{")):
        Settings.model_validate({**settings(), **wrong})


def test_the_offers_match_the_settings() -> None:
    assert for_settings(Settings()).offers == {"events"}
    whole = Settings.model_validate(settings())
    assert for_settings(whole).offers == PLATFORM.offers


# ── deliveries ───────────────────────────────────────────────────────────────────────────────────


def parse(
    content: Any, headers: dict[str, str] | None = None, window: str = "1h", **event: Any
) -> list[Record]:
    table = {"repeat_window": window, **event}
    webhook = HttpWebhook(Settings.model_validate({"event": table}))
    return list(webhook.parse(headers or {}, orjson.dumps(content)))


@pytest.mark.parametrize("prefix", ["", "sha1=", "SHA256=", "sha256=sha256=", " sha256= "])
def test_a_signature_has_the_configured_prefix(prefix: str) -> None:
    webhook = HttpWebhook(Settings.model_validate(settings()))
    digest = hmac.digest(SECRET.encode(), b"{}", sha256).hex()
    webhook.verify({"x-acme-signature": f"sha256={digest}"}, b"{}", None)
    with pytest.raises(Unauthorised):
        webhook.verify({"x-acme-signature": prefix + digest}, b"{}", None)


PLAIN = {"id": "e", "name": "A", "time": 1_767_225_600, "person": 7, "email": " Ana@Example.com "}


@pytest.mark.parametrize(
    "time",
    [
        1_767_225_600,
        1_767_225_600_000,
        1_767_225_600.0,
        "1767225600",
        "1767225600000",
        "2026-01-01T00:00:00Z",
        "2026-01-01T01:00:00+01:00",
        "2026-01-01",
    ],
)
def test_a_time_is_iso_or_counts_from_1970(time: Any) -> None:
    [record] = parse(PLAIN | {"time": time})
    assert record.occurred_at == 1_767_225_600_000


@pytest.mark.parametrize("time", [None, True, -5, "soon", [], 1e300, "9" * 400, {"a": 1}])
def test_any_other_time_is_malformed(time: Any) -> None:
    with pytest.raises(Malformed, match="`time`"):
        parse(PLAIN | {"time": time})


def test_ids_may_be_numbers_and_addresses_are_lower_case() -> None:
    [record] = parse(PLAIN | {"id": 12})
    assert (record.key, record.unique_id) == ("12", "http:12")
    assert (record.person, record.email, record.repeat_window) == ("7", "ana@example.com", None)


def test_a_name_in_a_header_is_read_as_utf_8() -> None:
    headers = {"x-name": "Geänderte Stufe".encode().decode("latin-1")}
    [record] = parse(PLAIN, headers, name_header="x-name")
    assert record.name == "Geänderte Stufe"


def test_a_list_of_events_is_split_and_headers_identify_a_single_one() -> None:
    found = parse({"all": [PLAIN, PLAIN | {"id": "f"}]}, items="all")
    assert [r.key for r in found] == ["e", "f"]
    assert [orjson.loads(r.data)["id"] for r in found] == ["e", "f"]
    headers = {"x-id": "h", "x-name": "B"}
    [record] = parse(PLAIN, headers, id_header="X-Id", name_header="x-name")
    assert (record.key, record.name) == ("h", "B")


def test_without_an_id_the_content_is_the_identity_within_a_window() -> None:
    without = {k: v for k, v in PLAIN.items() if k != "id"}
    [one], [same], [other] = parse(without), parse(without), parse(without | {"name": "B"})
    assert one.key == same.key != other.key
    assert one.repeat_window == 3_600_000
    assert len(one.unique_id) <= 255


# ── people and points ────────────────────────────────────────────────────────────────────────────


async def client(app: Any, **changes: Any) -> Client:
    assert PLATFORM.open
    return await PLATFORM.open(Settings.model_validate({**settings(), **changes}), make_kit(app))


async def test_an_address_with_a_new_owner_reads_as_none() -> None:
    found = await client(Acme().app)
    assert found.reader
    assert await found.reader.read(PersonRef(1, "m-8", "ana@example.com", b""), READS) is None
    assert await found.reader.read(PersonRef(1, None, "ana@example.com", b""), READS)


async def actions(app: Any, **changes: Any) -> Actions:
    found = (await client(app, adjust={**settings()["adjust"], **changes})).actions
    assert found
    return found


ACTION = Action("adjust", 'r"-1', email="ana@example.com", amount=-20, reason='"}, {"change": 1')


async def test_points_are_changed_by_the_template() -> None:
    acme = Acme()
    assert await (await actions(acme.app)).apply(ACTION) == "1"
    assert acme.members["ana@example.com"]["points"] == 100
    assert acme.applied == {'r"-1': {"change": -20, "note": ACTION.reason, "key": 'r"-1'}}


def fixed_response(status: int, body: bytes = b"{}") -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return app


@pytest.mark.parametrize(
    ("status", "changes", "kind"),
    [
        (200, {}, None),
        (204, {}, AmbiguousError),
        (204, {"applied": []}, None),
        (400, {}, Rejected),
        (404, {}, Rejected),
        (404, {"refused": [400]}, AmbiguousError),
        (409, {"refused": [400]}, AmbiguousError),
        (500, {"refused": [500]}, Rejected),
        (500, {}, AmbiguousError),
        (401, {}, Blocked),
        (423, {}, RetryLater),
        (503, {"refused": [503]}, RetryLater),
    ],
)
async def test_a_response_is_interpreted_by_the_settings(
    status: int, changes: dict[str, Any], kind: type[DeliveryError] | None
) -> None:
    to = await actions(fixed_response(status, b"" if status == 204 else b"{}"), **changes)
    if kind is None:
        assert await to.apply(ACTION) is None
        return
    with pytest.raises(DeliveryError) as caught:
        await to.apply(ACTION)
    assert type(caught.value) is kind


async def test_a_missing_person_field_is_refused_before_a_request_is_sent() -> None:
    acme = Acme()
    to = await actions(acme.app)
    with pytest.raises(Rejected, match="email"):
        await to.apply(Action("increase", "r", person="m-7", amount=1, reason="x"))
    assert acme.applied == {}


async def test_the_check_uses_the_quota() -> None:
    found = await client(Acme().app)
    assert found.reader
    assert isinstance(found.reader.quota, RateLimiter)
    before = {window: left for _, window, left in found.reader.quota.remaining()}
    assert [check.level for check in await found.check()] == ["ok"]
    after = {window: left for _, window, left in found.reader.quota.remaining()}
    assert after["minute"] == before["minute"] - 1
