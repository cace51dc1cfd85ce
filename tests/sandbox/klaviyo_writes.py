"""The shapes of what Klaviyo answers to the connector's writes.

Source: answers of a live account that a third party recorded (2026-09).
"""

from __future__ import annotations

from connector.klaviyo import limits

from . import klaviyo_bodies as bodies
from .klaviyo_case import JOBS, XL, Case, L, M, S
from .klaviyo_resources import JOB, LIST, PERSON, group, job, one, profile

_NEW = {**PERSON, "created": "exact", "updated": "exact"}
WRITES = (
    Case(
        "create_event",
        limits.CREATE_EVENT,
        202,
        "/api/events",
        None,
        XL,
        lambda _: {"data": {"type": "event", "attributes": bodies.event("new@example.com")}},
        None,
    ),
    Case(
        "bulk_create_events",
        limits.BULK_EVENTS,
        202,
        "/api/event-bulk-create-jobs",
        None,
        M,
        bodies.bulk_events,
        None,
    ),
    Case(
        "create_profile_by_import",
        limits.UPSERT_PROFILE,
        201,
        "/api/profile-import",
        one(profile(_NEW)),
        L,
        bodies.person("new@example.com", location={"city": "Madrid", "latitude": 40.4}),
    ),
    Case(
        "update_profile_by_import",
        limits.UPSERT_PROFILE,
        200,
        "/api/profile-import",
        one(profile({**PERSON, "updated": "exact"})),
        L,
        bodies.person("ana@example.com", first_name="Ana"),
    ),
    Case(
        "update_profile",
        limits.PATCH_PROFILE,
        200,
        "/api/profiles/{profile}",
        one(profile({**PERSON, "updated": "exact"})),
        L,
        bodies.update,
    ),
    Case(
        "bulk_import_profiles",
        limits.BULK_PROFILES,
        202,
        JOBS,
        one(
            job(
                {
                    **JOB,
                    "status": "=queued",
                    "created_at": "time",
                    "started_at": "null",
                    "completed_at": "null",
                }
            )
        ),
        M,
        bodies.job,
    ),
    Case(
        "create_list",
        limits.CREATE_LIST,
        201,
        "/api/lists",
        one(group("list", {**LIST, "created": "exact", "updated": "exact"})),
        "10, 10;w=1, 150;w=60, 150;w=86400",
        lambda _: {"data": {"type": "list", "attributes": {"name": "New"}}},
    ),
    Case(
        "remove_profiles_from_list",
        limits.REMOVE_MEMBERS,
        204,
        "/api/lists/{list}/relationships/profiles",
        None,
        M,
        bodies.members,
        None,
    ),
    Case(
        "request_profile_deletion",
        limits.ERASE_PROFILE,
        202,
        "/api/data-privacy-deletion-jobs",
        None,
        S,
        bodies.erasure("ana@example.com"),
        None,
    ),
)
