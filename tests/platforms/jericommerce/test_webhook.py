"""JeriCommerce's webhook: authentication and parsing."""

from __future__ import annotations

import base64
import hmac
from datetime import datetime
from hashlib import sha256
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from connector.domain.errors import Malformed, Problem, Unauthorised
from connector.domain.records import Record
from connector.platforms.jericommerce.settings import Settings
from connector.platforms.jericommerce.webhook import EVENT_TYPE, SIGNATURE, JeriCommerceWebhook
from connector.runtime.clock import to_millis
from connector.sandbox import JeriCommerceSandbox, Traffic

KEY = "whsec_0123456789abcdef"
BODY = b'{"email":"Ana@Example.com","id":"e1","customerId":"c1","createdAt":"2026-11-08T10:00:00Z"}'


def make_webhook(*keys: str, encoding: str = "auto") -> JeriCommerceWebhook:
    return JeriCommerceWebhook(
        Settings.model_validate(
            {"program": "acme", "webhook_secret": list(keys), "webhook_encoding": encoding}
        )
    )


def sign(body: bytes = BODY, key: str = KEY, *, encoding: str = "hex") -> str:
    digest = hmac.new(key.encode(), body, sha256).digest()
    return digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()


def accepts(webhook: JeriCommerceWebhook, given: str | None, body: bytes = BODY) -> bool:
    headers = {} if given is None else {SIGNATURE: given}
    try:
        webhook.verify(headers, body, None)
    except Unauthorised:
        return False
    return True


def parse(body: bytes | dict[str, Any], name: str | None = "Balance changed") -> Record:
    headers = {} if name is None else {EVENT_TYPE: name}
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    [record] = make_webhook(KEY).parse(headers, raw)
    return record


def make_body(**changes: Any) -> dict[str, Any]:
    return {**orjson.loads(BODY), **changes}


# ── authentication ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "given",
    [
        sign(),
        sign().upper(),
        "".join(c.upper() if n % 2 else c for n, c in enumerate(sign())),
        sign(encoding="base64"),
        f"  {sign()} ",
    ],
)
def test_a_valid_signature_is_accepted(given: str) -> None:
    assert accepts(make_webhook(KEY), given)


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "  ",
        sign(key="another"),
        sign(key="another", encoding="base64"),
        sign(key=""),
        sign(b"{}"),
        sign()[:-1],
        sign() + "0",
        sign(encoding="base64").swapcase(),
        "ñ" * 64,
        "\u212a" + sign()[1:],
        KEY,
        "0" * 64,
    ],
)
def test_any_other_signature_is_rejected(given: str | None) -> None:
    assert not accepts(make_webhook(KEY), given)


def test_a_rejection_has_a_problem_code_and_quotes_no_key_or_signature() -> None:
    with pytest.raises(Unauthorised) as caught:
        make_webhook(KEY).verify({SIGNATURE: sign(b"{}")}, BODY, None)
    assert caught.value.problem is Problem.WEBHOOK_UNSIGNED
    for secret in (KEY, sign(), sign(b"{}")):
        assert secret not in str(caught.value)


@given(given=st.text(max_size=100))
def test_no_random_text_is_accepted_as_a_signature(given: str) -> None:
    assert not accepts(make_webhook(KEY), given)


@given(body=st.binary(max_size=200), flip=st.integers(0, 199))
def test_a_modified_body_is_rejected(body: bytes, flip: int) -> None:
    given = sign(body)
    assert accepts(make_webhook(KEY), given, body)
    if flip < len(body):
        touched = bytearray(body)
        touched[flip] ^= 1
        assert not accepts(make_webhook(KEY), given, bytes(touched))


def test_the_signature_covers_the_raw_body() -> None:
    spaced = b'{ "id" : "e1",\n "n": 1.0, "id": "e1", "t": "\\u00f1" }'
    assert accepts(make_webhook(KEY), sign(spaced), spaced)
    encoded = orjson.dumps(orjson.loads(spaced))
    assert not accepts(make_webhook(KEY), sign(encoded), spaced)


@pytest.mark.parametrize(("encoding", "other"), [("hex", "base64"), ("base64", "hex")])
def test_a_configured_encoding_is_the_only_one_accepted(encoding: str, other: str) -> None:
    webhook = make_webhook(KEY, encoding=encoding)
    assert accepts(webhook, sign(encoding=encoding))
    assert not accepts(webhook, sign(encoding=other))


def test_during_rotation_both_secrets_are_valid() -> None:
    webhook = make_webhook("new", KEY)
    assert accepts(webhook, sign(key="new"))
    assert accepts(webhook, sign(key=KEY, encoding="base64"))
    assert not accepts(webhook, sign(key="older"))


@pytest.mark.parametrize("keys", [[], [""], ["", " "], ["\n"]])
@pytest.mark.parametrize("given", [None, "", sign(key=""), sign(key=" "), sign(key="\n")])
def test_without_a_secret_every_request_is_rejected(keys: list[str], given: str | None) -> None:
    settings = Settings.model_construct(
        webhook_secret=tuple(SecretStr(key) for key in keys), webhook_encoding="auto"
    )
    for webhook in (make_webhook(*keys), JeriCommerceWebhook(settings)):
        headers = {} if given is None else {SIGNATURE: given}
        with pytest.raises(Unauthorised, match="webhook_secret is not set"):
            webhook.verify(headers, BODY, None)


# ── parsing ──────────────────────────────────────────────────────────────────────────────────────


def test_an_event_is_parsed() -> None:
    moment = to_millis(datetime.fromisoformat("2026-11-08T10:00:00+00:00"))
    assert parse(BODY, " Balance changed ") == Record(
        key="e1",
        unique_id="jericommerce:e1",
        name="Balance changed",
        occurred_at=moment,
        data=BODY,
        person="c1",
        email="ana@example.com",
    )


@pytest.mark.parametrize("name", ["Cumpleaños 🎉", "Geänderte Stufe", "Tier upgraded"])
def test_a_name_in_utf_8_is_read_as_such(name: str) -> None:
    """A header's value arrives as Latin-1, whichever the sender wrote."""
    assert parse(BODY, name.encode().decode("latin-1")).name == name


def test_a_name_in_latin_1_is_kept() -> None:
    assert parse(BODY, "Cumplea\xf1os").name == "Cumpleaños"


@pytest.mark.parametrize(
    ("event", "refetch"),
    [
        ("Wallet pass requested", True),
        ("wallet-pass-uninstalled", True),
        (" WALLET PASS UNINSTALLED ", True),
        ("Wallet pass installed", False),
        ("Balance changed", False),
    ],
)
def test_an_event_about_a_new_pass_refetches_the_link(event: str, refetch: bool) -> None:
    assert parse(BODY, event).refetch is refetch


@pytest.mark.parametrize("email", [{}, {"email": None}, {"email": "  "}])
def test_the_legacy_body_without_an_address_is_parsed(email: dict[str, Any]) -> None:
    body = {**orjson.loads(BODY), **email}
    if not email:
        del body["email"]
    record = parse(body)
    assert (record.email, record.person) == (None, "c1")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"id":"\\ud800"}', "not JSON"),
        (b"[" * 5_000, "not JSON"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'"text"', "object"),
        (make_body(id=None), "`id`"),
        (make_body(id=""), "`id`"),
        (make_body(id="  "), "`id`"),
        (make_body(id=7), "`id`"),
        (make_body(id="a\0b"), "`id`"),
        (make_body(id="x" * 201), "`id`"),
        (make_body(createdAt=None), "`createdAt`"),
        (make_body(createdAt=1_762_596_000), "`createdAt`"),
        (make_body(createdAt="yesterday"), "`createdAt`"),
        (make_body(createdAt="2026-13-01T00:00:00Z"), "`createdAt`"),
        (make_body(properties=[1]), "`properties`"),
        (make_body(properties="text"), "`properties`"),
        (make_body(email=5), "`email`"),
        (make_body(email="a\0@example.com"), "`email`"),
        (make_body(customerId=5), "`customerId`"),
        (make_body(customerId="c\0"), "`customerId`"),
    ],
)
def test_an_unreadable_body_is_rejected(body: Any, says: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse(body)
    assert caught.value.problem is Problem.WEBHOOK_MALFORMED
    assert says in caught.value.detail
    assert "@" not in caught.value.detail


@pytest.mark.parametrize("name", [None, "", "  ", "x" * 201])
def test_an_event_without_a_name_is_rejected(name: str | None) -> None:
    with pytest.raises(Malformed, match=EVENT_TYPE):
        parse(BODY, name)


@pytest.mark.parametrize("id", ["x" * 200, " e1 ", "ñ"])
def test_an_id_of_any_characters_is_parsed(id: str) -> None:
    assert parse(make_body(id=id)).key == id.strip()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(), inner, max_size=2)
    ),
    max_leaves=3,
)


@given(
    body=st.one_of(
        st.binary(max_size=100),
        st.fixed_dictionaries(
            {},
            optional={
                "id": st.one_of(st.just("e1"), JSON),
                "createdAt": st.one_of(
                    st.datetimes().map(datetime.isoformat),
                    st.datetimes().map(lambda at: at.isoformat() + "-23:59"),
                    JSON,
                ),
                "email": st.one_of(st.emails(), JSON),
                "customerId": JSON,
                "properties": JSON,
            },
        ),
    ),
    name=st.text(max_size=210),
)
def test_any_input_is_parsed_or_rejected(body: Any, name: str) -> None:
    try:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
    except TypeError:
        return
    try:
        record = parse(raw, name)
    except Malformed:
        return
    assert record.data == raw
    assert record.unique_id == f"jericommerce:{record.key}"
    assert record.key == record.key.strip() != ""


@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_every_sandbox_webhook_is_accepted_and_parsed(encoding: Any) -> None:
    sandbox = JeriCommerceSandbox(people=5, signature=encoding, legacy_share=0.5)
    traffic = Traffic(sandbox, "http://127.0.0.1")
    webhook = make_webhook(sandbox.webhook_secret)
    names, without = set(), 0
    for _ in range(18):
        headers, body = traffic.make_event()
        webhook.verify(headers, body, None)
        [record] = webhook.parse(headers, body)
        payload = orjson.loads(body)
        assert (record.key, record.person) == (payload["id"], payload["customerId"])
        assert record.data is body
        without += record.email is None
        names.add(record.name)
    assert len(names) == 18
