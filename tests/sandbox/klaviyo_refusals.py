"""The shapes of Klaviyo's refusals.

Source: answers of a live account that a third party recorded (2026-09). Not recorded: a 401 of a
private key, a 403 of a scope and of the consent endpoints.
"""

from __future__ import annotations

from connector.klaviyo import limits

from . import klaviyo_bodies as bodies
from .klaviyo_case import JOBS, Case, L, M, S
from .klaviyo_resources import (
    BAD_BODY,
    BAD_FILTER,
    DUPLICATE,
    FAILED,
    FORBIDDEN,
    THROTTLED,
    UNAUTHORIZED,
    not_found,
)

REFUSALS = (
    Case(
        "request_profile_deletion_without_profile",
        limits.ERASE_PROFILE,
        404,
        "/api/data-privacy-deletion-jobs",
        not_found(
            'No profile with email "unknown@example.com" found.  '
            "The profile may have already been deleted."
        ),
        S,
        bodies.erasure("unknown@example.com"),
    ),
    Case(
        "list",
        limits.GET_LIST,
        404,
        "/api/lists/NOPE01",
        not_found("A list with id `NOPE01` does not exist."),
        L,
    ),
    Case(
        "segment",
        limits.GET_SEGMENT,
        404,
        "/api/segments/NOPE01",
        not_found("A segment with id `NOPE01` does not exist."),
        L,
    ),
    Case(
        "profile",
        limits.GET_PROFILE,
        404,
        "/api/profiles/NOPE01",
        not_found("A profile with id NOPE01 does not exist."),
        L,
    ),
    Case("job", limits.GET_IMPORT_JOB, 404, JOBS + "/NOPE01", not_found("Invalid job id"), M),
    Case(
        "filter",
        limits.GET_PROFILES,
        400,
        '/api/profiles?filter=equals(colour,"red")',
        BAD_FILTER,
        L,
    ),
    Case(
        "body",
        limits.UPSERT_PROFILE,
        400,
        "/api/profile-import",
        BAD_BODY,
        L,
        bodies.person("nowhere"),
    ),
    Case(
        "duplicate",
        limits.UPSERT_PROFILE,
        409,
        "/api/profile-import",
        DUPLICATE,
        L,
        bodies.person("eva@example.com", external_id="ext-ana"),
    ),
    Case(
        "key",
        limits.GET_ACCOUNTS,
        401,
        "/api/accounts",
        UNAUTHORIZED,
        None,
        headers={"authorization": "Klaviyo-API-Key pk_wrong"},
    ),
    Case(
        "token",
        limits.GET_ACCOUNTS,
        401,
        "/api/accounts",
        UNAUTHORIZED,
        None,
        headers={"authorization": "Bearer expired"},
    ),
    Case(
        "revoked",
        limits.GET_LISTS,
        401,
        "/api/lists",
        UNAUTHORIZED,
        None,
        fault={"endpoint": "lists", "kind": "status", "status": 401},
    ),
    Case(
        "consent",
        "POST /api/profile-subscription-bulk-create-jobs",
        403,
        "/api/profile-subscription-bulk-create-jobs",
        FORBIDDEN,
        L,
        lambda _: {},
    ),
    Case(
        "forbidden",
        limits.GET_LISTS,
        403,
        "/api/lists",
        FORBIDDEN,
        L,
        fault={"endpoint": "lists", "kind": "status", "status": 403},
    ),
    Case(
        "throttled",
        limits.GET_ACCOUNTS,
        429,
        "/api/accounts",
        THROTTLED,
        None,
        content_type=None,
        retry_after="1",
        calls=2,
    ),
    Case(
        "throttled_by_fault",
        limits.GET_LISTS,
        429,
        "/api/lists",
        THROTTLED,
        None,
        content_type=None,
        retry_after="1",
        fault={"endpoint": "lists", "kind": "status", "status": 429},
    ),
    Case(
        "failed",
        limits.GET_LISTS,
        500,
        "/api/lists",
        FAILED,
        L,
        fault={"endpoint": "lists", "kind": "status", "status": 500},
    ),
)
