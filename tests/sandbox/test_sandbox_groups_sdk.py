"""Klaviyo's SDK reads segments, and the flows triggered by lists, segments and metrics."""

from __future__ import annotations

import asyncio
from typing import Any

from connector.sandbox import KlaviyoSandbox, Servers

from .conftest import FakeTime
from .test_sandbox_klaviyo_sdk import cursor_of, fails, sdk


async def call(method: Any, *args: Any, **named: Any) -> Any:
    return await asyncio.to_thread(method, *args, **named)


def named(flow: Any) -> tuple[str, str, str]:
    """(id, name, status) of a flow, which the SDK leaves as a dict if it is included."""
    made = flow if isinstance(flow, dict) else flow.to_dict()
    return made["id"], made["attributes"]["name"], made["attributes"]["status"]


async def test_segments(klaviyo: KlaviyoSandbox, servers: Servers, fake_time: FakeTime) -> None:
    segments = sdk(servers).Segments
    early = [f"p{n}@example.com" for n in range(30)]
    id = klaviyo.make_segment("Gold", *early)
    for n in range(11):
        klaviyo.make_segment(f"Other {n}")
    first = await call(segments.get_segments)
    second = await call(segments.get_segments, page_cursor=cursor_of(first.links.next))
    assert (len(first.data), len(second.data)) == (10, 2)
    [named] = (await call(segments.get_segments, filter='equals(name,"Gold")')).data
    assert (named.id, named.attributes.is_active) == (id, True)
    one = await call(segments.get_segment, id, additional_fields_segment=["profile_count"])
    assert one.data.attributes.profile_count == 30
    page = await call(segments.get_profiles_for_segment, id, page_size=20)
    rest = await call(
        segments.get_profiles_for_segment,
        id,
        page_size=20,
        page_cursor=cursor_of(page.links.next),
    )
    assert [each.attributes.email for each in (*page.data, *rest.data)] == early
    assert page.data[0].attributes.joined_group_at is not None
    ids = await call(segments.get_profile_ids_for_segment, id, page_size=100)
    assert [each.id for each in ids.data] == list(klaviyo.profiles_by_id)
    found = await call(
        segments.get_profiles_for_segment, id, filter=f'equals(profile_id,"{ids.data[3].id}")'
    )
    assert [each.attributes.email for each in found.data] == ["p3@example.com"]
    raised, _ = await fails(segments.get_segment, "S99999")
    assert raised.status == 404
    assert klaviyo.state()["violations"] == {}


async def test_flows_and_their_triggers(klaviyo: KlaviyoSandbox, servers: Servers) -> None:
    api = sdk(servers)
    club, gold = klaviyo.make_list("Club"), klaviyo.make_segment("Gold")
    klaviyo.make_metric("Balance changed")
    welcome = klaviyo.flows.add("Welcome", "live", "Added to List", club)
    klaviyo.flows.add("Now gold", "draft", "Added to List", gold)
    klaviyo.flows.add("On points", "live", "Metric", "Balance changed")
    klaviyo.flows.add("Birthday", "live", "Date Based", "")
    include = ["flow-triggers"]
    of_list = await call(api.Lists.get_list, club, include=include)
    [flow] = of_list.included
    assert named(flow) == (welcome.id, "Welcome", "live")
    assert [x.id for x in of_list.data.relationships.flow_triggers.data] == [welcome.id]
    for answer, name in (
        (await call(api.Lists.get_lists, include=include), "Welcome"),
        (await call(api.Segments.get_segments, include=include), "Now gold"),
        (await call(api.Segments.get_segment, gold, include=include), "Now gold"),
        (await call(api.Metrics.get_metrics, include=include), "On points"),
    ):
        assert [named(each)[1] for each in answer.included] == [name]
    live = await call(api.Flows.get_flows, filter='equals(status,"live")')
    assert [each.attributes.trigger_type for each in live.data] == [
        "Added to List",
        "Metric",
        "Date Based",
    ]
    klaviyo.flows.readable = False
    raised, _ = await fails(api.Flows.get_flows)
    assert raised.status == 403
    assert (await call(api.Lists.get_list, club)).data.id == club
