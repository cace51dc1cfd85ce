"""Klaviyo's published limits. Source: `x-klaviyo-ratelimit` of the OpenAPI document (2026-07-15;
unchanged in revision 2026-10-15) and the page on rate limits, status codes and errors."""

from __future__ import annotations

from dataclasses import dataclass

from connector.net.rate_limit import Limit

CREATE_EVENT = "POST /api/events"
BULK_EVENTS = "POST /api/event-bulk-create-jobs"
GET_ACCOUNTS = "GET /api/accounts"
GET_METRICS = "GET /api/metrics"
GET_EVENTS = "GET /api/events"
GET_PROFILES = "GET /api/profiles"
GET_PROFILE = "GET /api/profiles/{id}"
UPSERT_PROFILE = "POST /api/profile-import"
PATCH_PROFILE = "PATCH /api/profiles/{id}"
BULK_PROFILES = "POST /api/profile-bulk-import-jobs"
GET_IMPORT_JOBS = "GET /api/profile-bulk-import-jobs"
GET_IMPORT_JOB = "GET /api/profile-bulk-import-jobs/{id}"
GET_IMPORT_ERRORS = "GET /api/profile-bulk-import-jobs/{id}/import-errors"
GET_LIST = "GET /api/lists/{id}"
GET_LISTS = "GET /api/lists"
GET_LIST_PROFILES = "GET /api/lists/{id}/profiles"
GET_SEGMENT = "GET /api/segments/{id}"
GET_SEGMENTS = "GET /api/segments"
GET_SEGMENT_PROFILES = "GET /api/segments/{id}/profiles"
GET_LIST_COUNT = "GET /api/lists/{id} profile_count"
GET_SEGMENT_COUNT = "GET /api/segments/{id} profile_count"
GET_FLOWS = "GET /api/flows"
GET_INSTALLS = "GET /api/application-installs"
ERASE_PROFILE = "POST /api/data-privacy-deletion-jobs"
CREATE_LIST = "POST /api/lists"
REMOVE_MEMBERS = "DELETE /api/lists/{id}/relationships/profiles"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint that the connector may call: `label` is its name for people."""

    route: str
    label: str
    limit: Limit


ENDPOINTS = (
    Endpoint(CREATE_EVENT, "Klaviyo events", Limit(350, 3500)),
    Endpoint(BULK_EVENTS, "Klaviyo events in bulk", Limit(10, 150)),
    Endpoint(GET_ACCOUNTS, "Klaviyo account", Limit(1, 15)),
    Endpoint(GET_METRICS, "Klaviyo metrics", Limit(10, 150)),
    Endpoint(GET_EVENTS, "Klaviyo events read", Limit(350, 3500)),
    Endpoint(GET_PROFILES, "Klaviyo profiles found", Limit(75, 750)),
    Endpoint(GET_PROFILE, "Klaviyo profile read", Limit(75, 750)),
    Endpoint(UPSERT_PROFILE, "Klaviyo profiles", Limit(75, 750)),
    Endpoint(PATCH_PROFILE, "Klaviyo profiles by id", Limit(75, 750)),
    Endpoint(BULK_PROFILES, "Klaviyo profiles and joins in bulk", Limit(10, 150)),
    Endpoint(GET_IMPORT_JOBS, "Klaviyo import jobs", Limit(10, 150)),
    Endpoint(GET_IMPORT_JOB, "Klaviyo import job", Limit(10, 150)),
    Endpoint(GET_IMPORT_ERRORS, "Klaviyo import errors", Limit(10, 150)),
    Endpoint(GET_LIST, "Klaviyo list", Limit(75, 750)),
    Endpoint(GET_LISTS, "Klaviyo lists found", Limit(75, 750)),
    Endpoint(GET_LIST_PROFILES, "Klaviyo list members read", Limit(75, 750)),
    Endpoint(GET_SEGMENT, "Klaviyo segment", Limit(75, 750)),
    Endpoint(GET_SEGMENTS, "Klaviyo segments found", Limit(75, 750)),
    Endpoint(GET_SEGMENT_PROFILES, "Klaviyo segment members read", Limit(75, 750)),
    Endpoint(GET_LIST_COUNT, "Klaviyo list size", Limit(1, 15)),
    Endpoint(GET_SEGMENT_COUNT, "Klaviyo segment size", Limit(1, 15)),
    Endpoint(GET_FLOWS, "Klaviyo flows", Limit(3, 60)),
    Endpoint(GET_INSTALLS, "Klaviyo app installations", Limit(10, 150)),
    Endpoint(ERASE_PROFILE, "Klaviyo profile deletion", Limit(3, 60)),
    Endpoint(CREATE_LIST, "Klaviyo lists created", Limit(10, 150, daily=150)),
    Endpoint(REMOVE_MEMBERS, "Klaviyo list members removed", Limit(10, 150)),
)

LIMITS = {endpoint.route: endpoint.limit for endpoint in ENDPOINTS}
_LABELS = {endpoint.route: endpoint.label for endpoint in ENDPOINTS}


def endpoint_label(route: str) -> str:
    """The name for people of an endpoint; a platform's is its own name."""
    return _LABELS.get(route, route)


BULK_PROFILES_MAX = 10_000
MEMBERS_MAX = 1_000
PROFILE_MAX = 100_000

BULK_EVENTS_MAX = 1_000
BODY_MAX = 5_000_000
PROPERTIES_MAX = 300
STRING_MAX = 100_000
ARRAY_MAX = 4_000
DEPTH_MAX = 10
METRIC_NAME_MAX = 127
UNIQUE_ID_MAX = 255
EARLIEST_TIME = 946_684_800_000
"""2000-01-01, as documented. The specification alone would accept 1990."""
MAX_FUTURE = 365 * 86_400_000
