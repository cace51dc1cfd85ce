"""Klaviyo's resources in JSON:API, with all their attributes and relationships.

Sources: the published spec and responses recorded live. Guesses: a segment's definition; a metric
of another integration was created at the same time as ours.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from starlette.datastructures import URL

from connector.sandbox.klaviyo.flows import Flow
from connector.sandbox.klaviyo.jobs import Failure, Job, pointer_of
from connector.sandbox.klaviyo.lists import MemberList
from connector.sandbox.klaviyo.state import Event, Memory, Profile

Resource = dict[str, Any]

_IDENTIFIERS = ("email", "phone_number", "external_id", "anonymous_id", "whatsapp_bsuid")
_STANDARD = ("first_name", "last_name", "organization", "locale", "title", "image")
_LOCATION = (
    "address1",
    "address2",
    "city",
    "country",
    "latitude",
    "longitude",
    "region",
    "zip",
    "timezone",
    "ip",
)
_MEMBER_RELATIONS = ("profiles", "tags", "flow-triggers")
_JOB_DELAY = 1.0
"""Recorded live: a job is shown as created a second later than in the answer to its request."""
_CREATED = "2026-01-01T00:00:00+00:00"


def iso(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, whole seconds: what reads show."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()


def iso_exact(seconds: float) -> str:
    """The same with microseconds: what an answer shows of a time that was just written."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def metric_id(number: int) -> str:
    """An id in Klaviyo's format: 6 characters."""
    return f"M{number:05d}"


def relation(place: str, name: str) -> dict[str, Any]:
    """A relationship that names no resources, of the resource at `place`."""
    return {
        "links": {"self": f"{place}/relationships/{name}/", "related": f"{place}/{name}/"},
    }


def profile(
    person: Profile,
    url: URL,
    extra: Mapping[str, Any] = MappingProxyType({}),
    *,
    exact: Container[str] = (),
    conversations: str = "conversation",
) -> Resource:
    """`extra`: further attributes. `exact`: the times that are shown with microseconds.
    `conversations`: the name of that relation, which is plural in the reads of profiles alone."""
    given = {**person.identifiers, **person.standard}
    times = {"created": person.created, "updated": person.updated}
    attributes = {
        **{name: given.get(name) for name in (*_IDENTIFIERS, *_STANDARD)},
        **{name: (iso_exact if name in exact else iso)(at) for name, at in times.items()},
        "last_event_date": None,
        "location": {name: person.location.get(name) for name in _LOCATION},
        "properties": person.properties,
        **extra,
    }
    relations = ("lists", "segments", "push-tokens", conversations)
    return _resource("profile", person.id, "profiles", url, attributes, relations)


def member_list(found: MemberList, url: URL, *, exact: bool = False) -> Resource:
    """`exact`: its times are shown with microseconds."""
    show = iso_exact if exact else iso
    attributes = {
        "name": found.name,
        "created": show(found.created),
        "updated": show(found.updated),
        "opt_in_process": found.opt_in,
    }
    return _resource("list", found.id, "lists", url, attributes, _MEMBER_RELATIONS)


def segment(found: MemberList, url: URL, *, is_processing: bool) -> Resource:
    attributes = {
        "name": found.name,
        "definition": {"condition_groups": [{"conditions": [_condition(found)]}]},
        "created": iso(found.created),
        "updated": iso(found.updated),
        "is_active": True,
        "is_processing": is_processing,
        "is_starred": False,
    }
    return _resource("segment", found.id, "segments", url, attributes, _MEMBER_RELATIONS)


def _condition(found: MemberList) -> dict[str, Any]:
    """What a person must have to be in a segment whose members a test sets."""
    return {
        "type": "profile-property",
        "property": f"properties['{found.name}']",
        "filter": {"type": "string", "operator": "equals", "value": "yes"},
    }


def flow(found: Flow, url: URL) -> Resource:
    attributes = {
        "name": found.name,
        "status": found.status,
        "archived": found.archived,
        "created": _CREATED,
        "updated": _CREATED,
        "trigger_type": found.trigger,
    }
    return _resource("flow", found.id, "flows", url, attributes, ("flow-actions", "tags"))


def event(found: Event, url: URL) -> Resource:
    """Its unique id is in `event_properties.$event_id`."""
    attributes = {
        "timestamp": found.time,
        "event_properties": found.properties,
        "datetime": iso(found.time),
        "uuid": f"00000000-0000-1000-8000-{found.number:012d}",
    }
    made = _resource("event", found.id, "events", url, attributes, ("profile", "metric"))
    related = made["relationships"]
    related["profile"]["data"] = {"type": "profile", "id": found.profile.id}
    related["metric"]["data"] = {"type": "metric", "id": metric_id(found.metric)}
    return made


def metric(memory: Memory, name: str, url: URL) -> Resource:
    """A metric that was made by a private key: its integration is the API."""
    number = memory.metrics[name]
    about = {"id": "0rG4eQ", "key": "api", "name": "API", "category": "API"}
    return _metric(metric_id(number), name, memory.metric_created[number], about, url)


def foreign_metric(at: int, name: str, integration: str, url: URL) -> Resource:
    """A metric of another integration."""
    id = f"FRGN{at:02}"
    about = {"id": id, "key": integration.lower(), "name": integration, "category": "eCommerce"}
    return _metric(id, name, 0.0, about, url)


def _metric(id: str, name: str, created: float, about: dict[str, str], url: URL) -> Resource:
    attributes = {
        "name": name,
        "created": iso(created),
        "updated": iso(created),
        "integration": {"object": "integration", **about},
    }
    return _resource("metric", id, "metrics", url, attributes, ("flow-triggers",))


def job(found: Job, now: float, url: URL, *, new: bool = False) -> Resource:
    """An import job; `new`: in the answer to its request."""
    status = "queued" if new else found.status(now)
    done = status == "complete"
    started = status in ("processing", "complete")
    attributes = {
        "status": status,
        "created_at": iso(found.created) if new else iso_exact(found.created + _JOB_DELAY),
        "total_count": found.total,
        "completed_count": found.total - len(found.errors) if done else 0,
        "failed_count": len(found.errors) if done else 0,
        "completed_at": iso(found.result) if done and found.result is not None else None,
        "expires_at": iso(found.expires),
        "started_at": iso(found.begins) if started else None,
    }
    kind = "profile-bulk-import-job"
    relations = ("lists", "profiles", "import-errors")
    made = _resource(kind, found.id, f"{kind}s", url, attributes, relations)
    made["relationships"]["lists"]["data"] = [{"type": "list", "id": id} for id in found.lists]
    del made["relationships"]["import-errors"]["links"]["self"]
    return made


def import_error(found: Job, error: Failure) -> Resource:
    return {
        "type": "import-error",
        "id": f"{found.id}-{error.index}",
        "attributes": {
            "code": error.code,
            "title": error.title,
            "detail": error.detail,
            "source": {"pointer": pointer_of(error)},
            "original_payload": error.payload,
        },
    }


def account(id: str, url: URL) -> Resource:
    attributes = {
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
                "region": None,
                "country": "Spain",
                "zip": "28001",
            },
        },
        "industry": "Food and Beverage",
        "timezone": "Europe/Madrid",
        "preferred_currency": "EUR",
        "public_api_key": id,
        "locale": "en-US",
    }
    return _resource("account", id, "accounts", url, attributes, ())


def _resource(
    kind: str,
    id: str,
    folder: str,
    url: URL,
    attributes: dict[str, Any],
    relations: Sequence[str],
) -> Resource:
    place = f"{url.scheme}://{url.netloc}/api/{folder}/{id}"
    made: Resource = {"type": kind, "id": id, "attributes": attributes}
    if relations:
        made["relationships"] = {name: relation(place, name) for name in relations}
    return {**made, "links": {"self": f"{place}/"}}
