"""A platform by others in one module: stamps on a card, received by webhook, read by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SecretStr

from connector.sdk import (
    BaseUrl,
    Check,
    Client,
    HeaderKey,
    JsonApi,
    Kit,
    Millis,
    PersonRef,
    PersonSnapshot,
    Platform,
    PlatformSettings,
    RateLimiter,
    Record,
    Secrets,
    credential_check,
    is_any_secret,
    iso,
    malformed,
    parse_object,
    per_second,
    setting,
    unauthorised,
    usable_secrets,
)

GET_CARD = "GET /cards/{number}"
QUOTA = "Toy API"


class Settings(PlatformSettings):
    base_url: BaseUrl = setting("https://toy.example", "Address of the API.")
    api_key: SecretStr = setting("", "The API key.", needed=True)
    webhook_secret: Secrets = setting((), "The last part of the webhook's address.")


class Webhook:
    def __init__(self, settings: Settings) -> None:
        self._secrets = usable_secrets(settings.webhook_secret)

    def verify(self, headers: Mapping[str, str], body: bytes, secret: str | None) -> None:
        if not is_any_secret(secret or "", self._secrets):
            raise unauthorised("the address does not end in the secret")

    def parse(self, headers: Mapping[str, str], body: bytes) -> Sequence[Record]:
        stamp = parse_object(body)
        number, card, at = (stamp.get(key) for key in ("stamp", "card", "at"))
        if not (type(number) is type(card) is type(at) is int and 0 <= at < 4_000_000_000):
            raise malformed("a stamp is {stamp, card, at}: three whole numbers")
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


class Api(JsonApi):
    def __init__(self, settings: Settings, kit: Kit, limiter: RateLimiter) -> None:
        super().__init__(kit, limiter, QUOTA)
        self._reads = self.client(settings.base_url, HeaderKey("x-toy-key", settings.api_key))

    async def card(self, number: str) -> dict[str, Any] | None:
        return await self.find_object(self._reads, f"/cards/{number}", route=GET_CARD)


class Reader:
    by_id = True

    def __init__(self, settings: Settings, api: Api) -> None:
        self.endpoint, self.quota = api.endpoint, api.limiter
        self.parallel = settings.max_concurrency
        self._api = api

    async def read(self, ref: PersonRef, fields: frozenset[str]) -> PersonSnapshot | None:
        if ref.platform_id is None or not ref.platform_id.isdecimal():
            return None
        card = await self._api.card(ref.platform_id)
        if card is None:
            return None
        return PersonSnapshot(person_view(card, {}), frozenset({"email", "balance", "raw"}))

    async def check(self) -> Sequence[Check]:
        await self._api.permit()
        return await credential_check("toy key", self._api.card("0"))


async def open(settings: Settings, kit: Kit) -> Client:
    key = f"toy {settings.api_key.get_secret_value()}"
    api = Api(settings, kit, await kit.quota(key, {QUOTA: per_second(10)}))
    reader = Reader(settings, api)
    return Client(check=reader.check, aclose=api.aclose, reader=reader)


def stars(balance: Any) -> str:
    """A function for mappings: one star per stamp."""
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
    api_version=1,
)
