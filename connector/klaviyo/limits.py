"""Klaviyo's published limits. Source: `x-klaviyo-ratelimit` of the OpenAPI document (2026-07-15;
unchanged in revision 2026-10-15) and the page on rate limits, status codes and errors."""

from __future__ import annotations

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
ERASE_PROFILE = "POST /api/data-privacy-deletion-jobs"
CREATE_LIST = "POST /api/lists"
REMOVE_MEMBERS = "DELETE /api/lists/{id}/relationships/profiles"

LIMITS = {
    CREATE_EVENT: Limit(350, 3500),
    BULK_EVENTS: Limit(10, 150),
    GET_ACCOUNTS: Limit(1, 15),
    GET_METRICS: Limit(10, 150),
    GET_EVENTS: Limit(350, 3500),
    GET_PROFILES: Limit(75, 750),
    GET_PROFILE: Limit(75, 750),
    UPSERT_PROFILE: Limit(75, 750),
    PATCH_PROFILE: Limit(75, 750),
    BULK_PROFILES: Limit(10, 150),
    GET_IMPORT_JOBS: Limit(10, 150),
    GET_IMPORT_JOB: Limit(10, 150),
    GET_IMPORT_ERRORS: Limit(10, 150),
    GET_LIST: Limit(75, 750),
    GET_LISTS: Limit(75, 750),
    GET_LIST_PROFILES: Limit(75, 750),
    GET_SEGMENT: Limit(75, 750),
    GET_SEGMENTS: Limit(75, 750),
    GET_SEGMENT_PROFILES: Limit(75, 750),
    GET_LIST_COUNT: Limit(1, 15),
    GET_SEGMENT_COUNT: Limit(1, 15),
    GET_FLOWS: Limit(3, 60),
    ERASE_PROFILE: Limit(3, 60),
    CREATE_LIST: Limit(10, 150, daily=150),
    REMOVE_MEMBERS: Limit(10, 150),
}

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
"""2000-01-01: the docs' bound; the specification alone would take 1990."""
MAX_FUTURE = 365 * 86_400_000
