"""Klaviyo's reads: filters, additional fields, cursors, pages.

Guess: events are sorted newest first by default. Cursors are opaque, so their format is free.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from starlette.datastructures import URL, QueryParams

from connector.sandbox.klaviyo import views
from connector.sandbox.klaviyo.state import Memory, Profile
from connector.sandbox.klaviyo.views import Resource

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
Page = tuple[list[Resource], str | None]
"""Resources, and the position of the next page."""

_NEVER = {"consent": "NEVER_SUBSCRIBED", "consent_timestamp": None}
_METHOD = {**_NEVER, "method": None, "method_detail": None, "last_updated": None}
_TRACKING = {
    **_NEVER,
    "last_updated": None,
    "created_timestamp": None,
    "metadata": None,
    "can_receive": False,
    "valid_until": None,
}
_EXTRAS: Mapping[str, Any] = {
    "subscriptions": {
        "email": {
            "marketing": {
                "can_receive_email_marketing": True,
                **_METHOD,
                "custom_method_detail": None,
                "double_optin": None,
                "suppression": [],
                "list_suppressions": [],
            },
            "open_tracking": _TRACKING,
            "click_tracking": _TRACKING,
        },
        "sms": {
            "marketing": {"can_receive_sms_marketing": False, **_METHOD},
            "transactional": {"can_receive_sms_transactional": False, **_METHOD},
        },
        "mobile_push": {"marketing": {"can_receive_push_marketing": False, **_NEVER}},
        "whatsapp": None,
    },
    "predictive_analytics": dict.fromkeys(
        (
            "historic_number_of_orders",
            "predicted_number_of_orders",
            "average_days_between_orders",
            "average_order_value",
            "historic_clv",
            "predicted_clv",
            "total_clv",
            "churn_probability",
            "expected_date_of_next_order",
            "ranked_channel_affinity",
        )
    ),
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


def allow(operator: str, name: str, filters: Mapping[str, Sequence[str]]) -> None:
    """Raise InvalidParameter unless `filters` (name → operators) has this one."""
    if operator not in filters.get(name, ()):
        raise InvalidParameter("filter", f"'{name}' cannot be filtered by '{operator}'.")


def events(memory: Memory, query: QueryParams, url: URL) -> Page:
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
    return [views.event(memory.event(number), url) for _, number in page], following


def _has_metric(number: int, _: int, metric: int) -> bool:
    return metric == number


def _has_time(compare: Callable[[float, float], bool], limit: float, time: int, _: int) -> bool:
    return compare(time, limit)


def profiles(memory: Memory, query: QueryParams, url: URL) -> Page:
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
    return [
        views.profile(person, url, shown, conversations="conversations") for person in page
    ], following


def metrics(memory: Memory, query: QueryParams, url: URL) -> Page:
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
    data = [views.metric(memory, name, url) for name in page]
    if following is None and not query.get("filter"):
        others = enumerate(memory.foreign_metrics)
        data += [views.foreign_metric(at, *other, url) for at, other in others]
    return data, following


def extras(query: QueryParams) -> dict[str, Any]:
    """The fields that `additional-fields[profile]` requests. No profile has consent."""
    requested = query.get("additional-fields[profile]", "")
    for name in filter(None, requested.split(",")):
        if name not in _EXTRAS:
            raise InvalidParameter(
                "additional-fields[profile]", f"'{name}' is not an additional field."
            )
    return {name: _EXTRAS[name] for name in requested.split(",") if name}


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


def cursor_text(position: str) -> str:
    """The cursor of a position in a collection."""
    return base64.urlsafe_b64encode(position.encode()).decode()
