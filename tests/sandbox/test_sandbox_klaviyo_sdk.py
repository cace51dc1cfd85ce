"""Klaviyo's SDK calls the sandbox over loopback: both agree on all formats."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from klaviyo_api import KlaviyoAPI
from openapi_client.exceptions import ApiException

from connector.sandbox import KlaviyoSandbox, Servers, serve

from .conftest import FakeTime, make_bulk, make_event, make_group, make_profile, make_single


def sdk(servers: Servers, key: str = "pk_sandbox") -> Any:
    api = KlaviyoAPI(key, max_retries=1, test_host=servers.url("klaviyo"))
    # Beneath the SDK's own retries urllib3 has three more, which sleep through a 429.
    api.api_client.rest_client.pool_manager.connection_pool_kw["retries"] = False
    return api


def cursor_of(link: str) -> str:
    """The cursor in a `links.next`; the SDK extracts it only from https links."""
    return parse_qs(urlsplit(link).query)["page[cursor]"][0]


async def fails(call: Any, *args: Any, **named: Any) -> tuple[Any, dict[str, Any]]:
    """The SDK's exception, and the first error in its body."""
    with pytest.raises(ApiException) as caught:
        await asyncio.to_thread(call, *args, **named)
    return caught.value, orjson.loads(caught.value.body or "")["errors"][0]


async def test_single_event_is_recorded(klaviyo: KlaviyoSandbox, servers: Servers) -> None:
    api = sdk(servers)
    assert await asyncio.to_thread(api.Events.create_event, make_single(value=9.99)) is None
    assert klaviyo.recorded("jeri:1") == 1
    assert klaviyo.state()["violations"] == {}


async def test_bulk_events_are_recorded(klaviyo: KlaviyoSandbox, servers: Servers) -> None:
    api = sdk(servers)
    body = make_bulk(
        make_group(make_event(), make_event(unique_id="jeri:2")),
        make_group(make_event(), profile=make_profile("bruno@example.com")),
    )
    assert await asyncio.to_thread(api.Events.bulk_create_events, body) is None
    assert klaviyo.unique_ids() == {"jeri:1": 2, "jeri:2": 1}
    assert klaviyo.state()["violations"] == {}


async def test_reads_parse(klaviyo: KlaviyoSandbox, servers: Servers) -> None:
    api = sdk(servers)
    names = [f"Metric {n:03d}" for n in range(201)]
    groups = [
        make_group(
            make_event(
                unique_id=f"jeri:{n}",
                metric={"data": {"type": "metric", "attributes": {"name": name}}},
            ),
            profile=make_profile(f"p{n % 150}@example.com"),
        )
        for n, name in enumerate(names)
    ]
    await asyncio.to_thread(api.Events.bulk_create_events, make_bulk(*groups))

    accounts = await asyncio.to_thread(api.Accounts.get_accounts)
    assert accounts.data[0].id == "SANDBX"

    first = await asyncio.to_thread(api.Metrics.get_metrics)
    second = await asyncio.to_thread(
        api.Metrics.get_metrics, page_cursor=cursor_of(first.links.next)
    )
    assert [m.attributes.name for m in (*first.data, *second.data)] == names
    assert second.links.next is None

    found = await asyncio.to_thread(
        api.Profiles.get_profiles, filter='any(email,["P3@example.com","unknown@example.com"])'
    )
    assert [p.attributes.email for p in found.data] == ["p3@example.com"]
    person = found.data[0].id
    one = await asyncio.to_thread(api.Profiles.get_profile, person)
    assert one.data.attributes.email == "p3@example.com"

    emails: list[str] = []
    cursor = None
    while True:
        page = await asyncio.to_thread(api.Profiles.get_profiles, page_size=100, page_cursor=cursor)
        emails += [p.attributes.email for p in page.data]
        if page.links.next is None:
            break
        cursor = cursor_of(page.links.next)
    assert len(set(emails)) == len(emails) == 150

    by_person = f'equals(profile_id,"{person}")'
    both = await asyncio.to_thread(api.Events.get_events, filter=by_person)
    assert sorted(e.attributes.event_properties["$event_id"] for e in both.data) == [
        "jeri:153",
        "jeri:3",
    ]
    metric = first.data[3].id
    only = await asyncio.to_thread(
        api.Events.get_events, filter=f'{by_person},equals(metric_id,"{metric}")'
    )
    assert [e.attributes.event_properties["$event_id"] for e in only.data] == ["jeri:3"]

    page = await asyncio.to_thread(api.Events.get_events, page_size=150)
    rest = await asyncio.to_thread(
        api.Events.get_events, page_size=150, page_cursor=cursor_of(page.links.next)
    )
    assert len({e.id for e in (*page.data, *rest.data)}) == 201


async def test_events_are_filtered_and_sorted_by_time(
    klaviyo: KlaviyoSandbox, servers: Servers
) -> None:
    api = sdk(servers)
    events = [
        make_event(unique_id=f"d{day}", time=f"2026-11-0{day}T10:00:00+00:00") for day in (3, 1, 2)
    ]
    await asyncio.to_thread(api.Events.bulk_create_events, make_bulk(make_group(*events)))
    found = await asyncio.to_thread(
        api.Events.get_events,
        filter="greater-or-equal(datetime,2026-11-02T10:00:00Z)",
        sort="datetime",
    )
    assert [e.attributes.event_properties["$event_id"] for e in found.data] == ["d2", "d3"]


async def test_errors_reach_the_sdk(klaviyo: KlaviyoSandbox, servers: Servers) -> None:
    api = sdk(servers)
    bad = make_group(make_event(), profile=make_profile("nowhere"))
    good = make_group(make_event())
    raised, error = await fails(api.Events.bulk_create_events, make_bulk(good, bad))
    assert raised.status == 400
    assert error["source"]["pointer"] == (
        "/data/attributes/events-bulk-create/data/1/attributes/profile/data/attributes/email"
    )
    raised, error = await fails(sdk(servers, "pk_wrong").Accounts.get_accounts)
    assert (raised.status, error["code"]) == (401, "authentication_failed")
    raised, error = await fails(api.Profiles.get_profile, "01UNKNOWN")
    assert (raised.status, error["code"]) == (404, "not_found")
    raised, error = await fails(api.Events.get_events, filter='equals(colour,"red")')
    assert (raised.status, error["source"]) == (400, {"parameter": "filter"})


async def test_throttling_reaches_the_sdk(fake_time: FakeTime) -> None:
    servers = await serve({"klaviyo": (KlaviyoSandbox(now=fake_time).app, 0)})
    try:
        api = sdk(servers)
        await asyncio.to_thread(api.Accounts.get_accounts)
        raised, error = await fails(api.Accounts.get_accounts)
    finally:
        await servers.aclose()
    assert (raised.status, error["code"]) == (429, "throttled")
    assert raised.headers["Retry-After"] == "1"
