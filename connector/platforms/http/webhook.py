"""A webhook in words: who signs it and how, and where it says what."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

import orjson

from connector.domain.errors import Malformed, Problem, Unauthorised
from connector.domain.lanes import (
    Millis,
)
from connector.domain.records import (
    Record,
)
from connector.mapping.paths import blank
from connector.platforms.http.settings import Settings
from connector.platforms.http.view import at
from connector.runtime.clock import millis_of

_MAX = 200
_MILLISECONDS_FROM = 100_000_000_000
"""A number from here on counts milliseconds (from 1973); as seconds it would be the year 5138."""
_LATEST = 253_402_300_799_000


class HttpWebhook:
    """connector.ports.Webhook."""

    def __init__(self, settings: Settings) -> None:
        # An empty key would let in whoever signs with nothing.
        keys = [key.get_secret_value() for key in settings.webhook_secret]
        self._keys = [key.encode() for key in keys if key.strip()]
        self._settings = settings
        said = settings.event
        self._window = round(said.repeat_window * 1000)
        self._items = at(said.items)
        self._paths = {
            word: at(path)
            for word in ("id", "name", "time", "person", "email")
            if (path := getattr(said, word))
        }

    def verify(self, headers: Mapping[str, str], body: bytes, secret: str | None) -> None:
        if not self._keys:
            raise Unauthorised(Problem.WEBHOOK_UNSIGNED, "webhook_secret is not set")
        header = self._settings.signature_header
        given = headers.get(header, "").strip() if header else secret or ""
        if not given:
            where = f"header {header}" if header else "the secret at the end of the address"
            raise Unauthorised(Problem.WEBHOOK_UNSIGNED, f"{where} is missing")
        if not any(self._proves(key, given, body) for key in self._keys):
            raise Unauthorised(
                Problem.WEBHOOK_UNSIGNED,
                f"{header} does not match the body: are webhook_secret, signature_encoding and "
                "signature_prefix right?"
                if header
                else "the secret at the end of the address is not webhook_secret",
            )

    def _proves(self, key: bytes, given: str, body: bytes) -> bool:
        if not self._settings.signature_header:
            return hmac.compare_digest(key, given.encode(errors="replace"))
        digest, written = hmac.digest(key, body, sha256), self._settings.signature_encoding
        prefix = self._settings.signature_prefix
        if not given.startswith(prefix):
            return False
        given = given[len(prefix) :]
        if written == "hex":
            wanted, given = digest.hex(), given.lower()
        else:
            wanted = base64.b64encode(digest).decode()
        return hmac.compare_digest(wanted.encode(), given.encode(errors="replace"))

    def parse(self, headers: Mapping[str, str], body: bytes) -> Sequence[Record]:
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise _malformed(f"the body is not JSON: {error}") from error
        path = self._settings.event.items
        items = self._items(said) if path else [said]
        if not isinstance(items, list):
            raise _malformed(f"`{path}` must be a list of events")
        return [self._record(headers, item) for item in items]

    def _record(self, headers: Mapping[str, str], item: Any) -> Record:
        if not isinstance(item, dict):
            raise _malformed("an event must be a JSON object")
        settings = self._settings.event
        name = self._word(headers, item, "name", settings.name_header)
        if not name:
            raise _malformed(f"{self._place('name')} must be the event's name")
        id = self._word(headers, item, "id", settings.id_header)
        data = orjson.dumps(item)
        key = id or sha256(name.encode() + b"\0" + data).hexdigest()
        email = self._word(headers, item, "email")
        return Record(
            key=key,
            unique_id=f"http:{key}",
            name=name,
            occurred_at=self._moment(item),
            data=data,
            person=self._word(headers, item, "person"),
            email=email.lower() if email else None,
            repeat_window=None if id else self._window,
        )

    def _word(
        self, headers: Mapping[str, str], item: dict[str, Any], word: str, header: str = ""
    ) -> str | None:
        """A text or whole number, as text. Raises Malformed for anything else but nothing."""
        get = self._paths.get(word)
        found = headers.get(header) if header else get(item) if get else None
        if blank(found):
            return None
        if isinstance(found, int) and not isinstance(found, bool):
            found = str(found)
        if not isinstance(found, str) or "\0" in found or len(found.strip()) > _MAX:
            place = f"header {header}" if header else self._place(word)
            raise _malformed(f"{place} must be a text of at most {_MAX} letters")
        return found.strip()

    def _moment(self, item: dict[str, Any]) -> Millis:
        value = self._paths["time"](item)
        try:
            if isinstance(value, str) and not _is_number(value):
                return millis_of(datetime.fromisoformat(value))
            number = float(value) if isinstance(value, int | float | str) else None
            if number is not None and not isinstance(value, bool):
                millis = round(number if number >= _MILLISECONDS_FROM else number * 1000)
                if 0 <= millis <= _LATEST:
                    return Millis(millis)
        except (ValueError, OverflowError):
            pass
        raise _malformed(
            f"{self._place('time')} must be the event's time: ISO 8601, or seconds or "
            "milliseconds since 1970"
        )

    def _place(self, word: str) -> str:
        return f"`{getattr(self._settings.event, word)}`"


def _is_number(text: str) -> bool:
    return text.strip().replace(".", "", 1).isdecimal()


def _malformed(detail: str) -> Malformed:
    return Malformed(Problem.WEBHOOK_MALFORMED, detail)
