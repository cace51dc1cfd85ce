"""Klaviyo's reads in JSON:API: filters, cursors, resources.

Guess: events are sorted newest first by default. Cursors are opaque, so their format is free.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Any

from starlette.datastructures import URL, QueryParams

from connector.sandbox.klaviyo.state import Event, Memory, Profile

_TERM = re.compile(
    r'\s*([a-z-]+)\(\s*([\w.$]+)\s*,\s*(\[[^\]]*\]|"(?:[^"\\]|\\.)*"|[^()]*?)\s*\)\s*(?:,|$)'
)
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_TIME_FIELDS = frozenset(("datetime", "timestamp"))
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "greater-than": lambda a, b: a > b,
    "greater-or-equal": lambda a, b: a >= b,
    "less-than": lambda a, b: a < b,
    "less-or-equal": lambda a, b: a <= b,
}


class InvalidParameter(Exception):
    """The query parameter `parameter` cannot be parsed."""

    def __init__(self, parameter: str, detail: str) -> None:
        self.parameter = parameter
        self.detail = detail
        super().__init__(detail)


Term = tuple[str, str, list[str]]
Resource = dict[str, Any]

_NEVER = {"consent": "NEVER_SUBSCRIBED", "consent_timestamp": None}
_EXTRAS: Mapping[str, Any] = {
    "subscriptions": {
        "email": {
            "marketing": {
                "can_receive_email_marketing": False,
                **_NEVER,
                "suppression": [],
                "list_suppressions": [],
            }
        },
        "sms": {"marketing": {"can_receive_sms_marketing": False, **_NEVER}},
        "mobile_push": {"marketing": {"can_receive_push_marketing": False, **_NEVER}},
        "whatsapp": None,
    },
    "predictive_analytics": None,
}


def terms(text: str) -> list[Term]:
    """`equals(f,"v"),any(f,["a","b"])` as (operator, field, values); a comma is an AND."""
    found: list[Term] = []
    at = 0
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None:
            raise InvalidParameter("filter", "The filter cannot be parsed.")
        operator, name, raw = match.groups()
        values = _STRING.findall(raw) if raw[:1] in ('"', "[") else [raw]
        found.append((operator, name, [value.replace('\\"', '"') for value in values]))
        at = match.end()
    return found


def events(memory: Memory, query: QueryParams, url: URL) -> dict[str, Any]:
    """`GET /api/events`: filter by profile_id, metric_id, datetime, timestamp."""
    profile: Profile | None = None
    no_match = False
    checks: list[Callable[[int, int], bool]] = []
    for operator, name, values in terms(query.get("filter", "")):
        if operator == "equals" and name == "profile_id":
            profile = memory.by_id(values[0])
            no_match = profile is None
        elif operator == "equals" and name == "metric_id":
            checks.append(partial(_has_metric, _metric_number(values[0])))
        elif operator in COMPARE and name in _TIME_FIELDS:
            checks.append(partial(_has_time, COMPARE[operator], parse_time(values[0])))
        else:
            raise InvalidParameter("filter", f"'{name}' cannot be filtered by '{operator}'.")
    sort = query.get("sort", "-datetime")
    if sort.removeprefix("-") not in _TIME_FIELDS:
        raise InvalidParameter("sort", f"'{sort}' is not a valid sort.")
    descending = sort.startswith("-")
    keys = sorted(
        (
            (time, number)
            for time, number, metric in (() if no_match else memory.times(profile))
            if all(check(time, metric) for check in checks)
        ),
        reverse=descending,
    )
    cursor = cursor_of(query)
    if cursor:
        after = (int(cursor[0]), int(cursor[-1]))
        keys = [key for key in keys if (key < after if descending else key > after)]
    size = size_of(query, default=200, most=1000)
    page = keys[:size]
    following = f"{page[-1][0]}|{page[-1][1]}" if len(keys) > size else None
    return collection([event(memory.event(n), url) for _, n in page], url, query, following)


def _has_metric(number: int, _: int, metric: int) -> bool:
    return metric == number


def _has_time(compare: Callable[[float, float], bool], limit: float, time: int, _: int) -> bool:
    return compare(time, limit)


def profiles(memory: Memory, query: QueryParams, url: URL) -> dict[str, Any]:
    """`GET /api/profiles`: filter equals and any by id, email, phone_number, external_id."""
    shown = extras(query)
    found: Sequence[Profile] = memory.unmerged()
    for at, (operator, name, values) in enumerate(terms(query.get("filter", ""))):
        if operator not in ("equals", "any") or name not in (
            "id",
            "email",
            "phone_number",
            "external_id",
        ):
            raise InvalidParameter("filter", f"'{name}' cannot be filtered by '{operator}'.")
        hits = [memory.by_id(v) if name == "id" else memory.by(name, v) for v in values]
        chosen = {hit.number: hit for hit in hits if hit is not None}
        if at:
            chosen = {p.number: p for p in found if p.number in chosen}
        found = [chosen[number] for number in sorted(chosen)]
    size = size_of(query, default=20, most=100)
    start = offset_of(query)
    page = found[start : start + size]
    following = str(start + size) if len(found) > start + size else None
    return collection([profile(p, url, shown) for p in page], url, query, following)


def metrics(memory: Memory, query: QueryParams, url: URL) -> dict[str, Any]:
    """`GET /api/metrics`: 200 per page, no `page[size]`."""
    if "page[size]" in query:
        raise InvalidParameter("page[size]", "'page[size]' is not allowed here.")
    names = list(memory.metrics)
    for operator, name, values in terms(query.get("filter", "")):
        if operator != "equals" or name not in ("integration.name", "integration.category"):
            raise InvalidParameter("filter", f"'{name}' cannot be filtered by '{operator}'.")
        # Recorded live: the category "API" finds nothing, the name "API" finds what the API made.
        if name == "integration.category" or values[0] != "API":
            names = []
    start = offset_of(query)
    page = names[start : start + 200]
    following = str(start + 200) if len(names) > start + 200 else None
    data = [metric(memory, name, url) for name in page]
    if following is None and not query.get("filter"):
        data += [_foreign(at, *other, url) for at, other in enumerate(memory.foreign_metrics)]
    return collection(data, url, query, following)


def event(event: Event, url: URL) -> dict[str, Any]:
    """An event as a resource; its unique id is in `event_properties.$event_id`."""
    return {
        "type": "event",
        "id": event.id,
        "attributes": {
            "timestamp": event.time,
            "event_properties": event.properties,
            "datetime": iso(event.time),
            "uuid": f"00000000-0000-1000-8000-{event.number:012d}",
        },
        "relationships": {
            "profile": {"data": {"type": "profile", "id": event.profile.id}},
            "metric": {"data": {"type": "metric", "id": metric_id(event.metric)}},
        },
        "links": {"self": f"{url.scheme}://{url.netloc}/api/events/{event.id}/"},
    }


def extras(query: QueryParams) -> dict[str, Any]:
    """The fields that `additional-fields[profile]` requests. No profile has consent."""
    requested = query.get("additional-fields[profile]", "")
    for name in filter(None, requested.split(",")):
        if name not in _EXTRAS:
            raise InvalidParameter(
                "additional-fields[profile]", f"'{name}' is not an additional field."
            )
    return {name: _EXTRAS[name] for name in requested.split(",") if name}


def profile(person: Profile, url: URL, extra: Mapping[str, Any] = MappingProxyType({})) -> Resource:
    """A profile as a resource, with `extra` among its attributes."""
    shown = ("email", "phone_number", "external_id")
    return {
        "type": "profile",
        "id": person.id,
        "attributes": {
            **{name: person.identifiers.get(name) for name in shown},
            **{
                name: person.standard.get(name)
                for name in ("first_name", "last_name", "organization", "locale", "title", "image")
            },
            "created": iso(person.created),
            "updated": iso(person.updated),
            "last_event_date": None,
            "location": person.location,
            "properties": person.properties,
            **extra,
        },
        "links": {"self": f"{url.scheme}://{url.netloc}/api/profiles/{person.id}/"},
    }


def metric(memory: Memory, name: str, url: URL) -> dict[str, Any]:
    """A metric as a resource; its integration is the API."""
    number = memory.metrics[name]
    created = iso(memory.metric_created[number])
    return {
        "type": "metric",
        "id": metric_id(number),
        "attributes": {
            "name": name,
            "created": created,
            "updated": created,
            "integration": {
                "object": "integration",
                "id": "0rG4eQ",
                "key": "api",
                "name": "API",
                "category": "API",
            },
        },
        "links": {"self": f"{url.scheme}://{url.netloc}/api/metrics/{metric_id(number)}/"},
    }


def _foreign(at: int, name: str, integration: str, url: URL) -> dict[str, Any]:
    """A metric of another integration."""
    id = f"FRGN{at:02}"
    about = {"object": "integration", "id": id, "key": integration.lower(), "name": integration}
    return {
        "type": "metric",
        "id": id,
        "attributes": {"name": name, "integration": {**about, "category": "eCommerce"}},
        "links": {"self": f"{url.scheme}://{url.netloc}/api/metrics/{id}/"},
    }


def account(id: str, url: URL) -> dict[str, Any]:
    """An account as a resource."""
    return {
        "type": "account",
        "id": id,
        "attributes": {
            "test_account": True,
            "contact_information": {
                "default_sender_name": "Sandbox",
                "default_sender_email": "sandbox@example.com",
                "website_url": "https://shop.example.com",
                "organization_name": "Sandbox",
                "street_address": {
                    "address1": "1 Example Street",
                    "address2": "",
                    "city": "Madrid",
                    "region": "",
                    "country": "Spain",
                    "zip": "28001",
                },
            },
            "industry": None,
            "timezone": "Europe/Madrid",
            "preferred_currency": "EUR",
            "public_api_key": id,
            "locale": "en-US",
        },
        "links": {"self": f"{url.scheme}://{url.netloc}/api/accounts/{id}/"},
    }


def metric_id(number: int) -> str:
    """An id in Klaviyo's format: 6 characters."""
    return f"M{number:05d}"


def iso(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()


def _metric_number(id: str) -> int:
    return int(id[1:]) if re.fullmatch(r"M\d{5}", id) else -1


def parse_time(text: str) -> float:
    """A time in a filter, as seconds since 1970."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        # In a query a plus sign may have become a space.
        return datetime.fromisoformat(text.replace(" ", "+")).timestamp()
    except ValueError:
        raise InvalidParameter("filter", f"'{text}' is not a time.") from None


def size_of(query: QueryParams, *, default: int, most: int) -> int:
    """`page[size]`; more than `most` is rejected."""
    text = query.get("page[size]", str(default))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise InvalidParameter("page[size]", f"Page size must be an integer between 1 and {most}.")
    return int(text)


def cursor_of(query: QueryParams) -> list[str]:
    """The numbers in `page[cursor]`; empty on the first page."""
    text = query.get("page[cursor]")
    if not text:
        return []
    try:
        parts = base64.urlsafe_b64decode(text.encode()).decode().split("|")
    except ValueError:
        parts = [""]
    if not all(part.isdecimal() for part in parts):
        raise InvalidParameter("page[cursor]", "Invalid cursor.")
    return parts


def offset_of(query: QueryParams) -> int:
    """The offset in `page[cursor]` of a collection that only grows at its end."""
    cursor = cursor_of(query)
    return int(cursor[0]) if cursor else 0


def collection(
    data: list[dict[str, Any]], url: URL, query: QueryParams, following: str | None
) -> dict[str, Any]:
    """A page and its links. `following`: the cursor of the next page."""
    more = None
    if following is not None:
        cursor = base64.urlsafe_b64encode(following.encode()).decode()
        more = str(url.include_query_params(**{"page[cursor]": cursor}))
    return {"data": data, "links": {"self": str(url), "next": more, "prev": None}}
