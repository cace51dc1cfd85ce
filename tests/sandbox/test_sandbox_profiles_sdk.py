"""Klaviyo's SDK calls profiles, bulk imports and lists, with plain dicts as bodies.

`from_dict` of its models would send every missing field as null, and null clears.
"""

from __future__ import annotations

import asyncio
from typing import Any

from connector.sandbox import KlaviyoSandbox, Servers

from .conftest import FakeTime, make_import, make_job
from .test_sandbox_klaviyo_sdk import cursor_of, fails, sdk


async def call(method: Any, *args: Any, **named: Any) -> Any:
    return await asyncio.to_thread(method, *args, **named)


async def test_profiles(klaviyo: KlaviyoSandbox, servers: Servers) -> None:
    profiles = sdk(servers).Profiles
    body = {"data": make_import(first_name="Ana", properties={"Tier": "Gold", "n": 1})}
    made = await call(profiles.create_or_update_profile, body)
    meta = {"patch_properties": {"unset": ["n"]}}
    body = {"data": make_import(last_name="Garcia", meta=meta)}
    again = await call(
        profiles.create_or_update_profile, body, additional_fields_profile=["subscriptions"]
    )
    assert again.data.id == made.data.id
    assert again.data.attributes.properties == {"Tier": "Gold"}
    assert again.data.attributes.subscriptions.email.marketing.consent == "NEVER_SUBSCRIBED"
    body = {"data": make_import(None, id=made.data.id, first_name=None)}
    patched = await call(profiles.update_profile, made.data.id, body)
    assert (patched.data.attributes.first_name, patched.data.attributes.last_name) == (
        None,
        "Garcia",
    )
    raised, error = await fails(profiles.create_profile, {"data": make_import()})
    assert (raised.status, error["code"]) == (409, "duplicate_profile")
    assert error["meta"]["duplicate_profile_id"] == made.data.id
    assert klaviyo.state()["violations"] == {}


async def test_bulk_import_jobs(
    klaviyo: KlaviyoSandbox, servers: Servers, fake_time: FakeTime
) -> None:
    api = sdk(servers)
    body = {"data": {"type": "list", "attributes": {"name": "Members"}}}
    made = await call(api.Lists.create_list, body)
    klaviyo.jobs.fail_matching("bad", "invalid", "Invalid input.")
    people = [make_import(f"p{n}@example.com") for n in range(25)]
    people += [make_import(f"bad{n}@example.com") for n in range(25)]
    job = await call(api.Profiles.bulk_import_profiles, make_job(*people, lists=(made.data.id,)))
    assert (job.data.attributes.status, job.data.attributes.total_count) == ("queued", 50)
    open_jobs = await call(
        api.Profiles.get_bulk_import_profiles_jobs, filter='any(status,["queued","processing"])'
    )
    assert [each.id for each in open_jobs.data] == [job.data.id]
    fake_time.seconds += 1
    done = (await call(api.Profiles.get_bulk_import_profiles_job, job.data.id)).data.attributes
    assert (done.status, done.completed_count, done.failed_count) == ("complete", 25, 25)
    get_errors = api.Profiles.get_errors_for_bulk_import_profiles_job
    first = await call(get_errors, job.data.id)
    second = await call(get_errors, job.data.id, page_cursor=cursor_of(first.links.next))
    assert (len(first.data), len(second.data)) == (20, 5)
    assert second.data[-1].attributes.code == "invalid"
    assert second.data[-1].attributes.original_payload == people[-1]
    found = await call(
        api.Profiles.get_profiles_for_bulk_import_profiles_job, job.data.id, page_size=100
    )
    assert [each.attributes.email for each in found.data] == [
        f"p{n}@example.com" for n in range(25)
    ]
    assert klaviyo.list_members(made.data.id) == [f"p{n}@example.com" for n in range(25)]
    assert klaviyo.state()["violations"] == {}


async def test_lists(klaviyo: KlaviyoSandbox, servers: Servers, fake_time: FakeTime) -> None:
    api = sdk(servers)
    for n in range(12):
        body = {"data": {"type": "list", "attributes": {"name": f"List {n}"}}}
        await call(api.Lists.create_list, body)
    first = await call(api.Lists.get_lists)
    second = await call(api.Lists.get_lists, page_cursor=cursor_of(first.links.next))
    assert [each.attributes.name for each in (*first.data, *second.data)] == [
        f"List {n}" for n in range(12)
    ]
    named = await call(api.Lists.get_lists, filter='equals(name,"List 3")')
    id = named.data[0].id

    people = [make_import(f"p{n}@example.com") for n in range(50)]
    job = await call(api.Profiles.bulk_import_profiles, make_job(*people))
    klaviyo.jobs.run(job.data.id)
    ids = list(klaviyo.profiles_by_id)
    members = [{"type": "profile", "id": each} for each in ids]
    assert await call(api.Lists.add_profiles_to_list, id, {"data": members[:30]}) is None
    fake_time.seconds += 1.5
    await call(api.Lists.add_profiles_to_list, id, {"data": members})
    await call(api.Lists.remove_profiles_from_list, id, {"data": members[:5]})
    page = await call(api.Lists.get_profiles_for_list, id, page_size=30)
    rest = await call(
        api.Lists.get_profiles_for_list, id, page_size=30, page_cursor=cursor_of(page.links.next)
    )
    assert [each.id for each in (*page.data, *rest.data)] == ids[5:]
    assert page.data[0].attributes.joined_group_at is not None
    late = await call(
        api.Lists.get_profile_ids_for_list,
        id,
        filter="greater-or-equal(joined_group_at,2026-11-18T11:06:41Z)",
        page_size=100,
        sort="-joined_group_at",
    )
    assert [each.id for each in late.data] == ids[:29:-1]
    one = await call(api.Lists.get_list, id, additional_fields_list=["profile_count"])
    assert one.data.attributes.profile_count == 45

    many = {"data": members * 21}
    raised, _ = await fails(api.Lists.add_profiles_to_list, id, many)
    assert (raised.status, klaviyo.violations) == (400, {"too_many_members": 1})
    stranger = {"data": [{"type": "profile", "id": "01UNKNOWN"}]}
    raised, _ = await fails(api.Lists.add_profiles_to_list, id, stranger)
    assert raised.status == 404
    raised, _ = await fails(api.Lists.get_list, "L99999")
    assert raised.status == 404


async def test_a_merge_transfers_list_memberships(
    klaviyo: KlaviyoSandbox, servers: Servers
) -> None:
    api = sdk(servers)
    made = await call(
        api.Lists.create_list, {"data": {"type": "list", "attributes": {"name": "Members"}}}
    )
    people = [make_import("a@example.com"), make_import("b@example.com")]
    job = await call(api.Profiles.bulk_import_profiles, make_job(people[0], lists=(made.data.id,)))
    klaviyo.jobs.run(job.data.id)
    await call(api.Profiles.create_or_update_profile, {"data": people[1]})
    klaviyo.merge("a@example.com", "b@example.com")
    assert klaviyo.list_members(made.data.id) == ["b@example.com"]
