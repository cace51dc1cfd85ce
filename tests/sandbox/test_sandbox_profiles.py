"""Profiles: import, create, update, conflicts, merges, and the log of writes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from connector.sandbox import KlaviyoSandbox

from .conftest import FakeTime, make_import, make_profile, make_single

IMPORT = "/api/profile-import"
AT = "/data/attributes"


def import_without_attributes(id: str) -> dict[str, Any]:
    return {"type": "profile", "id": id, "attributes": {"email": None}}


async def put(client: httpx.AsyncClient, email: str | None = "ana@example.com", **more: Any) -> Any:
    return await client.post(IMPORT, json={"data": make_import(email, **more)})


async def test_import_creates_then_updates(klaviyo: KlaviyoSandbox, in_process: Any) -> None:
    async with in_process(klaviyo.app) as client:
        made = await put(client, first_name="Ana", title="Dr", properties={"Tier": "Gold", "n": 1})
        again = await put(client, "ANA@example.com", title=None, properties={"n": None, "m": 2})
    assert (made.status_code, again.status_code) == (201, 200)
    shown = again.json()["data"]
    assert shown["id"] == made.json()["data"]["id"] == klaviyo.profile_id("ana@example.com")
    assert shown["attributes"]["title"] is None
    assert shown["attributes"]["properties"] == {"Tier": "Gold", "m": 2}
    assert klaviyo.profile("ana@example.com") == {
        "email": "ANA@example.com",
        "first_name": "Ana",
        "properties": {"Tier": "Gold", "m": 2},
    }


async def test_meta_unsets_and_appends(klaviyo: KlaviyoSandbox, in_process: Any) -> None:
    async with in_process(klaviyo.app) as client:
        await put(client, properties={"a": 1, "b": 2, "c": ["x"], "d": 4})
        await put(client, meta={"patch_properties": {"unset": "a", "append": {"c": ["y", "z"]}}})
        await put(client, meta={"patch_properties": {"unset": ["b"], "unappend": {"c": "x"}}})
    found = klaviyo.profile("ana@example.com")
    assert found is not None
    assert found["properties"] == {"c": ["y", "z"], "d": 4}


async def test_null_properties_wipe_them_all(klaviyo: KlaviyoSandbox, in_process: Any) -> None:
    async with in_process(klaviyo.app) as client:
        await put(client, properties={"a": 1}, location={"city": "Madrid", "zip": "28001"})
        await put(client, properties=None, location={"zip": None})
    assert klaviyo.profile("ana@example.com") == {
        "email": "ana@example.com",
        "location": {"city": "Madrid"},
        "properties": {},
    }


@pytest.mark.parametrize("other", [{"phone_number": "+34600000001"}, {"external_id": "x1"}])
async def test_identifiers_of_two_profiles_conflict(
    klaviyo: KlaviyoSandbox, in_process: Any, other: dict[str, str]
) -> None:
    async with in_process(klaviyo.app) as client:
        await put(client)
        owner = (await put(client, None, **other)).json()["data"]["id"]
        answer = await put(client, first_name="Ana", **other)
    error = answer.json()["errors"][0]
    assert (answer.status_code, error["code"]) == (409, "duplicate_profile")
    assert error["meta"]["duplicate_profile_id"] == owner
    assert klaviyo.profile("ana@example.com") == {"email": "ana@example.com", "properties": {}}


async def test_import_by_id_moves_to_a_free_address_only(
    klaviyo: KlaviyoSandbox, in_process: Any
) -> None:
    async with in_process(klaviyo.app) as client:
        id = (await put(client)).json()["data"]["id"]
        await put(client, "bea@example.com")
        taken = await put(client, "bea@example.com", id=id)
        moved = await put(client, "new@example.com", id=id)
        stranger = await put(client, "c@example.com", id="01UNKNOWN")
    assert taken.status_code == stranger.status_code == 404
    assert taken.json()["errors"][0]["detail"] == f"A profile with id {id} does not exist."
    assert (moved.status_code, klaviyo.profile_id("new@example.com")) == (200, id)
    assert klaviyo.profile("ana@example.com") is None


async def test_patch_needs_the_id_and_free_identifiers(
    klaviyo: KlaviyoSandbox, in_process: Any
) -> None:
    async with in_process(klaviyo.app) as client:
        id = (await put(client)).json()["data"]["id"]
        await put(client, "bea@example.com")
        url = f"/api/profiles/{id}"
        good = await client.patch(url, json={"data": make_import(None, id=id, title="Dr")})
        bare = await client.patch(url, json={"data": make_import(None, title="Dr")})
        taken = {"data": make_import("bea@example.com", id=id)}
        conflict = await client.patch(url, json=taken)
        empty = await client.patch(url, json={"data": import_without_attributes(id)})
        unknown = await client.patch("/api/profiles/01NO", json={"data": make_import(id="01NO")})
    assert [a.status_code for a in (good, bare, conflict, empty, unknown)] == [
        200,
        400,
        409,
        400,
        404,
    ]
    assert good.json()["data"]["attributes"]["title"] == "Dr"
    assert klaviyo.state()["violations"] == {"id_missing": 1, "identifier_missing": 1}


async def test_create_rejects_an_existing_profile(klaviyo: KlaviyoSandbox, in_process: Any) -> None:
    async with in_process(klaviyo.app) as client:
        made = await client.post("/api/profiles", json={"data": make_import()})
        again = await client.post("/api/profiles", json={"data": make_import("Ana@Example.com")})
    error = again.json()["errors"][0]
    assert (made.status_code, again.status_code) == (201, 409)
    assert error["meta"] == {"duplicate_profile_id": made.json()["data"]["id"]}
    assert error["source"] == {"pointer": AT}


RULES = [
    ("email_invalid", make_import("nowhere"), f"{AT}/email"),
    ("phone_invalid", make_import(phone_number="600"), f"{AT}/phone_number"),
    ("identifier_missing", make_import(None, first_name="A"), AT),
    ("unknown_field", make_import(anonymous_id="a"), f"{AT}/anonymous_id"),
    ("unknown_field", make_import(frist_name="a"), f"{AT}/frist_name"),
    ("shape", make_import(first_name=1), f"{AT}/first_name"),
    ("shape", make_import(properties=[]), f"{AT}/properties"),
    ("shape", make_import(meta={"patch_properties": {"unset": [1]}}), "/data/meta"),
    ("shape", make_import(meta={"patch_properties": {"remove": "a"}}), "/data/meta"),
    ("shape", make_import(meta={"patch_identifiers": {"append": {"email": [1]}}}), "/data/meta"),
    ("profile_meta_misplaced", {"type": "profile", "attributes": {"email": "a@b.co", "meta": {}}},
     f"{AT}/meta"),
    ("array_too_long", make_import(properties={"a": [1] * 4001}), f"{AT}/properties/a"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "profile", "pointer"), RULES)
async def test_import_that_breaks_a_rule_is_refused(
    klaviyo: KlaviyoSandbox, in_process: Any, name: str, profile: dict[str, Any], pointer: str
) -> None:
    good = make_import("good@example.com")
    job = {"type": "profile-bulk-import-job", "attributes": {"profiles": {"data": [good, profile]}}}
    async with in_process(klaviyo.app) as client:
        single = await client.post(IMPORT, json={"data": profile})
        bulk = await client.post("/api/profile-bulk-import-jobs", json={"data": job})
    assert (single.status_code, bulk.status_code) == (400, 400)
    assert single.json()["errors"][0]["source"]["pointer"].startswith(pointer)
    inside = pointer.replace("/data", "/data/attributes/profiles/data/1", 1)
    assert bulk.json()["errors"][0]["source"]["pointer"].startswith(inside)
    assert klaviyo.state()["violations"] == {name: 2}
    assert (klaviyo.state()["profiles"], klaviyo.state()["jobs"]) == (0, {})


async def test_import_over_100_kb_is_413(klaviyo: KlaviyoSandbox, in_process: Any) -> None:
    async with in_process(klaviyo.app) as client:
        answer = await put(client, properties={"a": "x" * 60_000, "b": "x" * 60_000})
    assert answer.status_code == 413
    assert klaviyo.state()["violations"] == {"payload_too_large": 1}


async def test_consent_fields_are_rejected(klaviyo: KlaviyoSandbox, in_process: Any) -> None:
    async with in_process(klaviyo.app) as client:
        answer = await client.post("/api/profile-subscription-bulk-create-jobs", json={})
        created = await put(client)
        query = {"additional-fields[profile]": "subscriptions"}
        shown = await client.get(f"/api/profiles/{created.json()['data']['id']}", params=query)
    assert answer.status_code == 403
    assert klaviyo.state()["violations"] == {"consent_endpoint": 1}
    marketing = shown.json()["data"]["attributes"]["subscriptions"]["email"]["marketing"]
    assert marketing["consent"] == "NEVER_SUBSCRIBED"


async def test_a_merged_profiles_id_still_resolves(
    klaviyo: KlaviyoSandbox, in_process: Any
) -> None:
    async with in_process(klaviyo.app) as client:
        source = (await put(client, properties={"a": 1, "b": 1})).json()["data"]["id"]
        into = (await put(client, "bea@example.com", properties={"b": 2})).json()["data"]["id"]
        await client.post("/api/events", json=make_single())
        assert klaviyo.merge("Ana@example.com", "bea@example.com") == into
        assert klaviyo.profile("ana@example.com") is None
        by_id = await put(client, None, id=source, properties={"c": 3})
        event = {"data": {"type": "profile", "id": source, "attributes": {}}}
        await client.post("/api/events", json=make_single(event))
        recreated = await put(client)
        shown = (await client.get("/api/profiles")).json()["data"]
        read = (await client.get(f"/api/profiles/{source}")).json()["data"]
    assert (by_id.status_code, by_id.json()["data"]["id"]) == (200, into)
    assert read["id"] == into
    assert recreated.status_code == 201
    assert [each["id"] for each in shown] == [into, recreated.json()["data"]["id"]]
    assert klaviyo.profiles_by_id[source]["properties"] == {"a": 1, "b": 2, "c": 3}
    assert list(klaviyo.profiles_by_id) == [into, recreated.json()["data"]["id"]]
    state = klaviyo.state()
    assert (state["profiles"], state["events"], state["duplicates"]) == (2, 1, 1)


async def test_secondary_addresses_find_the_profile(
    klaviyo: KlaviyoSandbox, in_process: Any
) -> None:
    async with in_process(klaviyo.app) as client:
        more = {"patch_identifiers": {"append": {"email": ["second@example.com"]}}}
        await put(client, meta=more)
        found = klaviyo.profile_id("second@example.com")
        less = {"patch_identifiers": {"unappend": {"email": ["second@example.com"]}}}
        await put(client, meta=less)
    assert found == klaviyo.profile_id("ana@example.com")
    assert klaviyo.profile_id("second@example.com") is None


async def test_writes_are_logged_when_enabled(fake_time: FakeTime, in_process: Any) -> None:
    sandbox = KlaviyoSandbox(now=fake_time, limits=False, log_writes=True)
    async with in_process(sandbox.app) as client:
        meta = {"patch_properties": {"unset": "old"}}
        made = await put(client, "Ana@Example.com", title=None, properties={"a": 1}, meta=meta)
        await put(client, "nowhere")
        fake_time.seconds += 1
        event = make_profile(properties={"b": 1})
        await client.post("/api/events", json=make_single(event))
        job = [make_import(None, id=made.json()["data"]["id"], first_name="A")]
        body = {"type": "profile-bulk-import-job", "attributes": {"profiles": {"data": job}}}
        await client.post("/api/profile-bulk-import-jobs", json={"data": body})
    at = fake_time.seconds
    assert sandbox.writes == [
        (at - 1, "single", "ana@example.com", ("title", "properties.a", "unset.old")),
        (at, "event", "ana@example.com", ("properties.b",)),
        (at, "bulk", "ana@example.com", ("first_name",)),
    ]


async def test_quotas_of_profiles_and_lists(fake_time: FakeTime, in_process: Any) -> None:
    sandbox = KlaviyoSandbox(now=fake_time)
    fake_time.seconds -= fake_time.seconds % 86_400
    async with in_process(sandbox.app) as client:
        made = await put(client)
        url = f"/api/profiles/{made.json()['data']['id']}"
        rich = {"additional-fields[profile]": "predictive_analytics"}
        costly = [(await client.get(url, params=rich)).status_code for _ in range(11)]
        job = await client.get("/api/profile-bulk-import-jobs")
        listed = [{"data": {"type": "list", "attributes": {"name": f"L{n}"}}} for n in range(151)]
        statuses = []
        for body in listed:
            answer = await client.post("/api/lists", json=body)
            statuses.append(answer.status_code)
            fake_time.seconds += 1
    assert made.headers["ratelimit-limit"] == "75, 75;w=1, 750;w=60"
    assert costly == [200] * 10 + [429]
    assert job.headers["ratelimit-limit"] == "10, 10;w=1, 150;w=60"
    assert statuses == [201] * 150 + [429]
    assert answer.headers["retry-after"] == str(86_400 - 150)
