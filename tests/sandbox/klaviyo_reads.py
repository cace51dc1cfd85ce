"""The shapes of what Klaviyo answers to the connector's reads.

Source: answers of a live account that a third party recorded (2026-09), and the published spec for
what was not recorded: `GET /api/application-installs` and a filled import error.
"""

from __future__ import annotations

from connector.klaviyo import limits

from .klaviyo_case import JOBS, XL, XS, Case, L, M, S
from .klaviyo_resources import (
    FLOW,
    INCLUDED_FLOW,
    ITEM,
    JOB,
    LIST,
    METRIC,
    PERSON,
    PREDICTED,
    RELATED,
    SEGMENT,
    SUBSCRIPTIONS,
    _links,
    group,
    job,
    one,
    page,
    profile,
    ref,
    resource,
)

FLOW_TRIGGERS = "include=flow-triggers&fields[flow]=name,status,archived"
_LIVE = "filter=" + 'equals(status,"live")'
_EXTRAS = "additional-fields[profile]=subscriptions,predictive_analytics"
_MEMBER = {"email": "text", "joined_group_at": "time"}
_MEMBER_QUERY = "fields[profile]=email,joined_group_at&sort=joined_group_at&page[size]=100"

READS = (
    Case(
        "get_accounts",
        limits.GET_ACCOUNTS,
        200,
        "/api/accounts",
        page(
            resource(
                "account",
                "id:6",
                {
                    "test_account": "bool",
                    "contact_information": {
                        **dict.fromkeys(("default_sender_name", "default_sender_email"), "text"),
                        **dict.fromkeys(("website_url", "organization_name"), "text?"),
                        "street_address": dict.fromkeys(
                            ("address1", "address2", "city", "region", "country", "zip"), "text?"
                        ),
                    },
                    "industry": "text?",
                    **dict.fromkeys(("timezone", "preferred_currency", "public_api_key"), "text"),
                    "locale": "text",
                },
            )
        ),
        XS,
        remaining="0",
    ),
    Case(
        "get_metrics",
        limits.GET_METRICS,
        200,
        "/api/metrics",
        page(resource("metric", "id:6", METRIC, "flow-triggers")),
        M,
    ),
    Case(
        "get_metrics_with_flows",
        limits.GET_METRICS,
        200,
        f"/api/metrics?{FLOW_TRIGGERS}",
        page(
            resource("metric", "id:6", METRIC, flow_triggers=[ref("flow", "id:6")]), INCLUDED_FLOW
        ),
        M,
    ),
    Case(
        "get_events",
        limits.GET_EVENTS,
        200,
        '/api/events?filter=equals(profile_id,"{profile}")&page[size]=1',
        page(
            resource(
                "event",
                "id:11",
                {
                    "timestamp": "int",
                    "datetime": "time",
                    "event_properties": {
                        "sku": "text",
                        "$event_id": "text",
                        "$value": "number",
                        "$value_currency": "text",
                    },
                    "uuid": "text",
                },
                profile=ref("profile", "id:26"),
                metric=ref("metric", "id:6"),
            )
        ),
        XL,
    ),
    Case(
        "get_events_with_people",
        limits.GET_EVENTS,
        200,
        "/api/events?fields[event]=uuid&fields[profile]=email&include=profile&page[size]=1",
        page(
            resource(
                "event",
                "id:11",
                {"uuid": "text"},
                profile=ref("profile", "id:26"),
                metric=ref("metric", "id:6"),
            ),
            profile({"email": "text"}),
        ),
        XL,
    ),
    Case(
        "get_profiles",
        limits.GET_PROFILES,
        200,
        '/api/profiles?filter=any(email,["ana@example.com"])&page[size]=100',
        page(profile(PERSON, "conversations")),
        L,
    ),
    Case(
        "get_profiles_sparse",
        limits.GET_PROFILES,
        200,
        "/api/profiles?fields[profile]=email,location.city&page[size]=1",
        page(profile({"email": "text", "location": {"city": "text?"}}, "conversations")),
        L,
    ),
    Case(
        "get_profile",
        limits.GET_PROFILE,
        200,
        "/api/profiles/{profile}?fields[profile]=email",
        one(profile({"email": "text"}, "conversations")),
        L,
    ),
    Case(
        "get_profile_with_all",
        limits.GET_PROFILE,
        200,
        f"/api/profiles/{{profile}}?{_EXTRAS}&include=lists,segments&fields[list]=name"
        "&fields[segment]=name",
        one(
            profile(
                {**PERSON, "subscriptions": SUBSCRIPTIONS, "predictive_analytics": PREDICTED},
                "conversations",
                lists=[ref("list", "id:6")],
                segments=[ref("segment", "id:6")],
            ),
            {
                "type": "=list|=segment",
                "id": "id:6",
                "attributes": {"name": "text"},
                "relationships": dict.fromkeys(("profiles", "tags", "flow-triggers"), RELATED),
                "links": ITEM,
            },
        ),
        L,
        remaining="74",
    ),
    Case(
        "get_bulk_import_profiles_jobs",
        limits.GET_IMPORT_JOBS,
        200,
        JOBS + '?filter=any(status,["queued","processing","complete"])&page[size]=100',
        page(job(JOB)),
        M,
    ),
    Case(
        "get_bulk_import_profiles_job",
        limits.GET_IMPORT_JOB,
        200,
        JOBS + "/{job}",
        one(job(JOB)),
        M,
    ),
    Case(
        "get_bulk_import_profiles_job_with_lists",
        limits.GET_IMPORT_JOB,
        200,
        JOBS + "/{job}?fields[profile-bulk-import-job]=status&include=lists",
        one(job({"status": "text"}), group("list", LIST)),
        M,
    ),
    Case(
        "get_errors_for_bulk_import_profiles_job",
        limits.GET_IMPORT_ERRORS,
        200,
        JOBS + "/{job}/import-errors?page[size]=100",
        page(
            {
                "type": "=import-error",
                "id": "text",
                "attributes": {
                    **dict.fromkeys(("code", "title", "detail"), "text"),
                    "source": {"pointer": "text"},
                    "original_payload": "object",
                },
            }
        ),
        M,
    ),
    Case(
        "get_lists",
        limits.GET_LISTS,
        200,
        '/api/lists?filter=equals(name,"Club")',
        page(group("list", LIST)),
        L,
    ),
    Case(
        "get_lists_by_id",
        limits.GET_LISTS,
        200,
        '/api/lists?filter=any(id,["{list}"])&include=tags',
        {
            "data": [resource("list", "id:6", LIST, "profiles flow-triggers", tags=[])],
            "included": [],
            # Recorded on a first and only page. It is never followed.
            "links": {"self": "here", "next": "null", "prev": "next"},
        },
        L,
    ),
    Case(
        "get_list",
        limits.GET_LIST,
        200,
        f"/api/lists/{{list}}?{FLOW_TRIGGERS}",
        one(group("list", LIST, flow_triggers=[ref("flow", "id:6")]), INCLUDED_FLOW),
        L,
    ),
    Case(
        "get_list_count",
        limits.GET_LIST_COUNT,
        200,
        "/api/lists/{list}?additional-fields[list]=profile_count",
        one(group("list", {**LIST, "profile_count": "int"})),
        XS,
        remaining="0",
    ),
    Case(
        "get_profiles_for_list",
        limits.GET_LIST_PROFILES,
        200,
        f"/api/lists/{{list}}/profiles?{_MEMBER_QUERY}",
        page(profile(_MEMBER)),
        L,
    ),
    Case(
        "get_segments",
        limits.GET_SEGMENTS,
        200,
        f"/api/segments?{FLOW_TRIGGERS}",
        page(group("segment", SEGMENT, flow_triggers=[ref("flow", "id:6")]), INCLUDED_FLOW),
        L,
    ),
    Case(
        "get_segment",
        limits.GET_SEGMENT,
        200,
        "/api/segments/{segment}",
        one(group("segment", SEGMENT)),
        L,
    ),
    Case(
        "get_segment_count",
        limits.GET_SEGMENT_COUNT,
        200,
        "/api/segments/{segment}?additional-fields[segment]=profile_count",
        one(group("segment", {**SEGMENT, "profile_count": "int"})),
        XS,
        remaining="0",
    ),
    Case(
        "get_profiles_for_segment",
        limits.GET_SEGMENT_PROFILES,
        200,
        "/api/segments/{segment}/profiles",
        page(profile({**PERSON, "joined_group_at": "time"})),
        L,
    ),
    Case("get_flows", limits.GET_FLOWS, 200, f"/api/flows?{_LIVE}", page(FLOW), S),
    Case(
        "get_flows_with_actions",
        limits.GET_FLOWS,
        200,
        '/api/flows?filter=contains(name,"elcom")&include=flow-actions,tags',
        {
            **page(
                {
                    **FLOW,
                    "relationships": {
                        name: {**_links(RELATED), "data": []} for name in ("flow-actions", "tags")
                    },
                }
            ),
            "included": [],
        },
        S,
    ),
    Case(
        "get_application_installs",
        limits.GET_INSTALLS,
        200,
        "/api/application-installs",
        page({"type": "=application-install", "id": "text"}),
        M,
        headers={"revision": "2026-10-15.pre"},
    ),
)
