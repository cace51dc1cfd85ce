"""A webhook that settings describe: how requests are signed, and where their parts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

import orjson

from connector.domain.lanes import Millis
from connector.domain.records import Record
from connector.mapping.paths import is_blank
from connector.platforms.http.settings import Settings
from connector.platforms.http.view import getter_at
from connector.platforms.webhooks import (
    header_text,
    is_any_secret,
    is_signed,
    malformed,
    parse_body,
    unauthorised,
    usable_secrets,
)
from connector.runtime.clock import to_millis

_MAX_LENGTH = 200
_MIN_MILLISECONDS = 100_000_000_000
"""A number from here on is milliseconds (1973); as seconds it would be the year 5138."""
_LATEST_TIME = 253_402_300_799_000


class HttpWebhook:
    """connector.ports.Webhook."""

    def __init__(self, settings: Settings) -> None:
        self._keys = usable_secrets(settings.webhook_secret)
        self._settings = settings
        event_settings = settings.event
        self._window = round(event_settings.repeat_window * 1000)
        self._get_items = getter_at(event_settings.items)
        self._getters = {
            field: getter_at(path)
            for field in ("id", "name", "time", "person", "email")
            if (path := getattr(event_settings, field))
        }

    def verify(self, headers: Mapping[str, str], body: bytes, secret: str | None) -> None:
        if not self._keys:
            raise unauthorised("webhook_secret is not set")
        header = self._settings.signature_header
        given = headers.get(header, "").strip() if header else secret or ""
        if not given:
            source = f"header {header}" if header else "the secret at the end of the address"
            raise unauthorised(f"{source} is missing")
        if not self._matches(given, body):
            raise unauthorised(
                f"{header} does not match the body: are webhook_secret, signature_encoding and "
                "signature_prefix right?"
                if header
                else "the secret at the end of the address is not webhook_secret"
            )

    def _matches(self, given: str, body: bytes) -> bool:
        settings = self._settings
        if not settings.signature_header:
            return is_any_secret(given, self._keys)
        prefix = settings.signature_prefix
        signature = given.removeprefix(prefix)
        encodings = (settings.signature_encoding,)
        return given.startswith(prefix) and is_signed(signature, body, self._keys, encodings)

    def parse(self, headers: Mapping[str, str], body: bytes) -> Sequence[Record]:
        payload = parse_body(body)
        path = self._settings.event.items
        items = self._get_items(payload) if path else [payload]
        if not isinstance(items, list):
            raise malformed(f"`{path}` must be a list of events")
        return [self._record(headers, item) for item in items]

    def _record(self, headers: Mapping[str, str], item: Any) -> Record:
        if not isinstance(item, dict):
            raise malformed("an event must be a JSON object")
        settings = self._settings.event
        name = self._field(headers, item, "name", settings.name_header)
        if not name:
            raise malformed(f"{self._path_text('name')} must be the event's name")
        id = self._field(headers, item, "id", settings.id_header)
        data = orjson.dumps(item)
        key = id or sha256(name.encode() + b"\0" + data).hexdigest()
        email = self._field(headers, item, "email")
        return Record(
            key=key,
            unique_id=f"http:{key}",
            name=name,
            occurred_at=self._occurred_at(item),
            data=data,
            person=self._field(headers, item, "person"),
            email=email.lower() if email else None,
            repeat_window=None if id else self._window,
        )

    def _field(
        self, headers: Mapping[str, str], item: dict[str, Any], field: str, header: str = ""
    ) -> str | None:
        """A text or whole number, as text; None if there is none. Raises Malformed for any other
        value."""
        get = self._getters.get(field)
        found: Any = get(item) if get and not header else None
        if header and (given := headers.get(header)) is not None:
            found = header_text(given)
        if is_blank(found):
            return None
        if isinstance(found, int) and not isinstance(found, bool):
            found = str(found)
        if not isinstance(found, str) or "\0" in found or len(found.strip()) > _MAX_LENGTH:
            source = f"header {header}" if header else self._path_text(field)
            raise malformed(f"{source} must be a text of at most {_MAX_LENGTH} characters")
        return found.strip()

    def _occurred_at(self, item: dict[str, Any]) -> Millis:
        value = self._getters["time"](item)
        try:
            if isinstance(value, str) and not _is_number(value):
                return to_millis(datetime.fromisoformat(value))
            number = float(value) if isinstance(value, int | float | str) else None
            if number is not None and not isinstance(value, bool):
                millis = round(number if number >= _MIN_MILLISECONDS else number * 1000)
                if 0 <= millis <= _LATEST_TIME:
                    return Millis(millis)
        except (ValueError, OverflowError):
            pass
        raise malformed(
            f"{self._path_text('time')} must be the event's time: ISO 8601, or seconds or "
            "milliseconds since 1970"
        )

    def _path_text(self, field: str) -> str:
        return f"`{getattr(self._settings.event, field)}`"


def _is_number(text: str) -> bool:
    return text.strip().replace(".", "", 1).isdecimal()
