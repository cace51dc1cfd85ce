"""An outsider's platform in one module: stamps on a card, told by webhook, read by number."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import SecretStr

from connector.config import PlatformSettings, Secrets, Url, setting
from connector.domain.attention import Check
from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Malformed,
    Problem,
    Unauthorised,
)
from connector.domain.lanes import Millis
from connector.domain.records import Record
from connector.net.auth import HeaderKey
from connector.net.http import Http
from connector.net.rate_limit import Limit, RateLimiter
from connector.platforms.kit import NOT_APPLIED, Kit
from connector.ports import Client, PersonRef, PersonSnapshot, Platform, Quota
from connector.runtime.clock import iso

CARD = "GET /cards/{number}"


class Settings(PlatformSettings):
    base_url: Url = setting("https://toy.example", "Where the API answers.")
    api_key: SecretStr = setting("", "The API key.", needed=True)
    webhook_secret: Secrets = setting((), "What stands at the end of the webhook's address.")


class Webhook:
    def __init__(self, settings: Settings) -> None:
        keys = [key.get_secret_value() for key in settings.webhook_secret]
        self._keys = [key.encode() for key in keys if key.strip()]

    def verify(self, headers: Mapping[str, str], body: bytes, secret: str | None) -> None:
        given = (secret or "").encode(errors="replace")
        if not any(hmac.compare_digest(key, given) for key in self._keys):
            raise Unauthorised(Problem.WEBHOOK_UNSIGNED, "the address does not end in the secret")

    def parse(self, headers: Mapping[str, str], body: bytes) -> Sequence[Record]:
        try:
            said = orjson.loads(body)
            number, card, at = said["stamp"], said["card"], said["at"]
            if not (type(number) is type(card) is type(at) is int and 0 <= at < 4_000_000_000):
                raise TypeError
        except (orjson.JSONDecodeError, KeyError, TypeError):
            what = "a stamp is {stamp, card, at}: three whole numbers"
            raise Malformed(Problem.WEBHOOK_MALFORMED, what) from None
        time = Millis(at * 1000)
        return [Record(str(number), f"toy:{number}", "Stamp", time, body, person=str(card))]


def event_view(name: str, at: int, body: dict[str, Any], email: str | None) -> dict[str, Any]:
    event = {"name": name, "time": iso(at), "properties": {}}
    view: dict[str, Any] = {"event": event, "raw": body}
    return view | ({"email": email} if email else {})


def person_view(card: dict[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
    view: dict[str, Any] = {"raw": card}
    for theirs, ours in (("mail", "email"), ("stamps", "balance")):
        if card.get(theirs) is not None:
            view[ours] = card[theirs]
    return view


class Reader:
    endpoint = CARD
    by_id = True

    def __init__(self, settings: Settings, http: Http, governor: RateLimiter) -> None:
        self.parallel, self._http, self._governor = settings.max_concurrency, http, governor

    @property
    def quota(self) -> Quota:
        return self._governor

    async def read(self, ref: PersonRef, fields: frozenset[str]) -> PersonSnapshot | None:
        if ref.platform_id is None or not ref.platform_id.isdecimal():
            return None
        try:
            answer = await self._http.call("GET", f"/cards/{ref.platform_id}", route=CARD)
        except Blocked as error:
            if error.status == 404:
                return None
            raise
        card = answer.json()
        if not isinstance(card, dict):
            raise AmbiguousError(Problem.ANSWER_UNREADABLE, "a card is a JSON object")
        return PersonSnapshot(person_view(card, {}), frozenset({"email", "balance", "raw"}))

    async def check(self) -> Sequence[Check]:
        try:
            await self.read(PersonRef(0, "0", None, b""), frozenset())
        except DeliveryError as error:
            return [Check("toy key", "fault", error.detail, error.problem)]
        return [Check("toy key", "ok")]


async def open(settings: Settings, kit: Kit) -> Client:
    key = HeaderKey("x-toy-key", settings.api_key)
    limits = {CARD: Limit(10, 600)}
    governor = await kit.quota(f"toy {settings.api_key.get_secret_value()}", limits)
    reader = Reader(settings, kit.http(settings.base_url, key, NOT_APPLIED), governor)
    return Client(check=reader.check, aclose=reader._http.aclose, reader=reader)


def stars(balance: Any) -> str:
    """A function for mappings: one star for each stamp."""
    return "★" * balance


PLATFORM = Platform(
    source="toy",
    title="Toy cards",
    settings=Settings,
    offers=frozenset({"events", "profiles"}),
    event_view=event_view,
    webhook=Webhook,
    open=open,
    person_view=person_view,
)
