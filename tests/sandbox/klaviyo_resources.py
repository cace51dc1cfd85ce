"""The shapes of Klaviyo's resources, links and errors; the tables of answers are beside it.

Source: answers of a live account that a third party recorded (2026-09).
"""

from __future__ import annotations

from typing import Any

from .shapes import Shape

RELATED: Shape = {"links": {"self": "link", "related": "link"}}
SELF: Shape = {"self": "here"}
PAGES: Shape = {"self": "here", "next": "next?", "prev": "null"}
ITEM: Shape = {"self": "link"}


def one(data: Shape, included: Shape | None = None) -> Shape:
    return {"data": data, "links": SELF} | ({} if included is None else {"included": [included]})


def page(data: Shape, included: Shape | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"data": [data], "links": PAGES}
    return found if included is None else found | {"included": [included]}


def resource(
    kind: str, id: str, attributes: Shape, relations: str = "", **named: Shape
) -> dict[str, Any]:
    """`relations` have links alone; `named` ones have `data` too."""
    made: dict[str, Any] = {"type": f"={kind}", "id": id, "attributes": attributes, "links": ITEM}
    related = dict.fromkeys(relations.split(), RELATED)
    related |= {
        name.replace("_", "-"): {**_links(RELATED), "data": data} for name, data in named.items()
    }
    return made | ({"relationships": related} if related else {})


def _links(shape: Shape) -> dict[str, Any]:
    assert isinstance(shape, dict)
    return dict(shape)


def ref(kind: str, id: str) -> dict[str, Any]:
    return {"type": f"={kind}", "id": id}


LOCATION: Shape = {
    **dict.fromkeys(
        ("address1", "address2", "city", "country", "region", "zip", "timezone", "ip"), "text?"
    ),
    "latitude": "number?",
    "longitude": "number?",
}
PERSON: dict[str, Any] = {
    "email": "text",
    **dict.fromkeys(
        (
            *("phone_number", "external_id", "anonymous_id", "whatsapp_bsuid", "first_name"),
            *("last_name", "organization", "locale", "title", "image"),
        ),
        "text?",
    ),
    "created": "time",
    "updated": "time",
    "last_event_date": "time?",
    "location": LOCATION,
    "properties": "object",
}
_CONSENT: dict[str, Any] = {"consent": "=NEVER_SUBSCRIBED", "consent_timestamp": "exact?"}
_METHOD: dict[str, Any] = {
    **_CONSENT,
    "method": "text?",
    "method_detail": "text?",
    "last_updated": "exact?",
}
_TRACKING: dict[str, Any] = {
    **_CONSENT,
    **dict.fromkeys(("last_updated", "created_timestamp", "metadata", "valid_until"), "null"),
    "can_receive": "bool",
}
SUBSCRIPTIONS: Shape = {
    "email": {
        "marketing": {
            **_METHOD,
            "can_receive_email_marketing": "bool",
            "custom_method_detail": "text?",
            "double_optin": "bool?",
            "suppression": [],
            "list_suppressions": [],
        },
        "open_tracking": _TRACKING,
        "click_tracking": _TRACKING,
    },
    "sms": {
        "marketing": {**_METHOD, "can_receive_sms_marketing": "bool"},
        "transactional": {**_METHOD, "can_receive_sms_transactional": "bool"},
    },
    "mobile_push": {"marketing": {**_CONSENT, "can_receive_push_marketing": "bool"}},
    "whatsapp": "null",
}
PREDICTED: Shape = {
    **dict.fromkeys(
        (
            *("historic_number_of_orders", "predicted_number_of_orders", "historic_clv"),
            *("average_days_between_orders", "average_order_value", "predicted_clv", "total_clv"),
            "churn_probability",
        ),
        "number?",
    ),
    "expected_date_of_next_order": "text?",
    "ranked_channel_affinity": "null",
}


def profile(attributes: Shape, conversations: str = "conversation", **named: Shape) -> Shape:
    plain = [name for name in ("lists", "segments", "push-tokens") if name not in named]
    relations = " ".join([*plain, conversations])
    return resource("profile", "id:26", attributes, relations, **named)


_GROUP: dict[str, Any] = {"name": "text", "created": "time", "updated": "time"}
LIST: dict[str, Any] = {**_GROUP, "opt_in_process": "=single_opt_in|=double_opt_in"}
CONDITION: Shape = {
    "type": "=profile-property",
    "property": "text",
    "filter": {"type": "=string", "operator": "text", "value": "text"},
}
SEGMENT: dict[str, Any] = {
    **_GROUP,
    "definition": {"condition_groups": [{"conditions": [CONDITION]}]},
    **dict.fromkeys(("is_active", "is_processing", "is_starred"), "bool"),
}
_FLOW: dict[str, Any] = {"name": "text", "status": "=live|=draft|=manual", "archived": "bool"}
FLOW = resource(
    "flow",
    "id:6",
    {**_FLOW, "created": "time", "updated": "time", "trigger_type": "text"},
    "flow-actions tags",
)
INCLUDED_FLOW = resource("flow", "id:6", _FLOW, "flow-actions tags")
METRIC: dict[str, Any] = {
    **_GROUP,
    "integration": {**dict.fromkeys(("object", "id", "key", "name", "category"), "text")},
}
JOB: dict[str, Any] = {
    "status": "=queued|=processing|=complete|=cancelled",
    "created_at": "exact",
    **dict.fromkeys(("total_count", "completed_count", "failed_count"), "int"),
    **dict.fromkeys(("completed_at", "started_at"), "time?"),
    "expires_at": "time",
}


def job(attributes: Shape) -> Shape:
    made = resource(
        "profile-bulk-import-job", "text", attributes, "profiles", lists=[ref("list", "id:6")]
    )
    made["relationships"]["import-errors"] = {"links": {"related": "link"}}
    return made


def group(kind: str, attributes: Shape, **named: Shape) -> Shape:
    relations = "profiles tags" if "flow_triggers" in named else "profiles tags flow-triggers"
    return resource(kind, "id:6", attributes, relations, **named)


def refused(
    code: str,
    title: str,
    source: Shape,
    *,
    detail: str = "text",
    links: Shape | None = None,
    meta: Shape | None = None,
) -> Shape:
    """One error. `links` and `meta` are given together, or neither is there."""
    error: dict[str, Any] = {
        "id": "uuid",
        "status": "int",
        "code": f"={code}",
        "title": f"={title}",
        "detail": detail,
        "source": source,
    }
    return {"errors": [error if meta is None else error | {"links": links or {}, "meta": meta}]}


_POINTER: Shape = {"pointer": "=/data/"}


def not_found(detail: str) -> Shape:
    return refused("not_found", "Not found.", _POINTER, detail=f"={detail}")


FORBIDDEN = refused(
    "permission_denied", "You do not have permission to perform this action.", _POINTER
)
UNAUTHORIZED = refused("authentication_failed", "Incorrect authentication credentials.", _POINTER)
FAILED = refused("error", "A server error occurred.", _POINTER)
THROTTLED = refused(
    "throttled",
    "Request was throttled.",
    {"pointer": "=/data"},
    detail="=Request was throttled. Expected available in 1 second.",
    links={
        "type": "=https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling#rate-limits"
    },
    meta={},
)
BAD_FILTER = refused("invalid", "Invalid input.", {"parameter": "=filter"}, meta={})
BAD_BODY = refused("invalid", "Invalid input.", {"pointer": "text"}, meta={})
DUPLICATE = refused(
    "duplicate_profile",
    "Conflict.",
    {"pointer": "=/data/attributes"},
    meta={"duplicate_profile_id": "id:26"},
)
