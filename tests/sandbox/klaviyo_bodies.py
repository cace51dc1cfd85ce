"""Request bodies for the tables of answers. `ids` names what the account has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Body = Callable[[Mapping[str, str]], Any]


def event(email: str) -> dict[str, Any]:
    return {
        "profile": {"data": {"type": "profile", "attributes": {"email": email}}},
        "metric": {"data": {"type": "metric", "attributes": {"name": "Balance changed"}}},
        "properties": {},
        "unique_id": "shape:1",
    }


def bulk_events(_: Mapping[str, str]) -> Any:
    made = event("new@example.com")
    person = made.pop("profile")
    events = {"data": [{"type": "event", "attributes": made}]}
    one = {"type": "event-bulk-create", "attributes": {"profile": person, "events": events}}
    attributes = {"events-bulk-create": {"data": [one]}}
    return {"data": {"type": "event-bulk-create-job", "attributes": attributes}}


def person(email: str, **more: Any) -> Body:
    return lambda _: {"data": {"type": "profile", "attributes": {"email": email, **more}}}


def update(ids: Mapping[str, str]) -> Any:
    attributes = {"first_name": "Ana"}
    return {"data": {"type": "profile", "id": ids["profile"], "attributes": attributes}}


def job(ids: Mapping[str, str]) -> Any:
    people = {"data": [{"type": "profile", "attributes": {"email": "ana@example.com"}}]}
    lists = {"lists": {"data": [{"type": "list", "id": ids["list"]}]}}
    data = {"type": "profile-bulk-import-job", "attributes": {"profiles": people}}
    return {"data": {**data, "relationships": lists}}


def members(ids: Mapping[str, str]) -> Any:
    return {"data": [{"type": "profile", "id": ids["profile"]}]}


def erasure(email: str) -> Body:
    person = {"data": {"type": "profile", "attributes": {"email": email}}}
    job = {"type": "data-privacy-deletion-job", "attributes": {"profile": person}}
    return lambda _: {"data": job}
