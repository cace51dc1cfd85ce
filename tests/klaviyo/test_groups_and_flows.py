"""Lists, segments and flows read from the sandbox, whose shapes the official SDK has judged."""

from __future__ import annotations

import httpx
import pytest

from connector.domain.errors import AmbiguousError, Blocked
from connector.klaviyo.flows import FlowTriggers
from connector.klaviyo.groups import KlaviyoGroups
from connector.klaviyo.limits import LIMITS
from connector.ports import AffectedResources, GroupKind
from connector.sandbox import KlaviyoSandbox

from .conftest import WIDE, Rig, scripted

EVERYTHING = dict.fromkeys(LIMITS, WIDE)


@pytest.fixture
def groups(klaviyo: KlaviyoSandbox) -> KlaviyoGroups:
    return KlaviyoGroups(Rig(klaviyo, limits=EVERYTHING).api)


@pytest.fixture
def flows(klaviyo: KlaviyoSandbox) -> FlowTriggers:
    return FlowTriggers(Rig(klaviyo, limits=EVERYTHING).api)


def people(count: int) -> list[str]:
    return [f"p{n}@example.com" for n in range(count)]


@pytest.mark.parametrize("kind", ["list", "segment"])
async def test_members_are_paged_with_a_durable_cursor(
    klaviyo: KlaviyoSandbox, groups: KlaviyoGroups, kind: GroupKind
) -> None:
    make = klaviyo.make_list if kind == "list" else klaviyo.make_segment
    id = make('VIP "gold"', *people(250))
    assert await groups.find(kind, 'VIP "gold"') == {id: 'VIP "gold"'}
    assert await groups.find(kind, id) == {id: 'VIP "gold"'}
    assert await groups.count(kind, id) == 250
    found, cursor, more = [], None, True
    while more:
        page = await groups.members(kind, id, cursor)
        found += [member.email for member in page.members]
        cursor, more = page.cursor, page.more
    assert found == people(250)
    assert len({member.profile_id for member in page.members}) == 50


async def test_a_shared_name_returns_both_groups_and_an_unknown_one_none(
    klaviyo: KlaviyoSandbox, groups: KlaviyoGroups
) -> None:
    ids = {klaviyo.make_list("Members"), klaviyo.make_list("Members")}
    assert set(await groups.find("list", "Members")) == ids
    assert await groups.find("list", "No such list") == {}
    assert await groups.find("segment", "S99999") == {}


async def test_known_profiles_are_looked_up_a_hundred_at_a_time(
    klaviyo: KlaviyoSandbox, groups: KlaviyoGroups
) -> None:
    klaviyo.make_people("Ada@example.com", "p7@example.com")
    assert await groups.existing([*people(250), "ada@example.com"]) == {
        "ada@example.com",
        "p7@example.com",
    }
    assert klaviyo.state()["requests"] == {"GET /api/profiles": {"200": 3}}
    assert await groups.existing([]) == set()


async def test_long_addresses_do_not_exceed_the_url_limit(
    klaviyo: KlaviyoSandbox, groups: KlaviyoGroups
) -> None:
    long = [f"{'x' * 60}@{'y' * 60}.{'z' * 60}.{n:04d}.example.com" for n in range(60)]
    klaviyo.make_people(*long)
    assert await groups.existing(long) == set(long)
    counts = klaviyo.state()["requests"]
    assert counts == {"GET /api/profiles": {"200": 3}}


async def test_live_flows_are_found_by_their_trigger(
    klaviyo: KlaviyoSandbox, flows: FlowTriggers
) -> None:
    club, other = klaviyo.make_list("Club"), klaviyo.make_list("Other")
    gold = [klaviyo.make_segment(f"Gold {n}") for n in range(12)]
    add = klaviyo.flows.add
    add("Welcome", "live", "Added to List", club)
    add("Old welcome", "live", "Added to List", club, archived=True)
    add("Draft", "draft", "Added to List", club)
    add("Elsewhere", "live", "Added to List", other)
    add("Now gold", "live", "Added to List", gold[11])
    add("Almost gold", "manual", "Added to List", gold[0])
    add("Birthday", "live", "Date Based", "")
    add("On points", "live", "Metric", "Balance changed")
    add("On orders", "live", "Metric", "Placed Order")
    for metric in ("Balance changed", "Placed Order"):
        klaviyo.make_metric(metric)
    assert await flows.live(AffectedResources(lists=frozenset({club}))) == ["Welcome"]
    assert await flows.live(AffectedResources(segments=frozenset({gold[11]}))) == ["Now gold"]
    assert await flows.live(AffectedResources(fields=True)) == ["Birthday", "Now gold"]
    assert await flows.live(AffectedResources(metrics=frozenset({"Balance changed"}))) == [
        "On points"
    ]
    everything = AffectedResources(
        frozenset({club, "L99999"}), metrics=frozenset({"none"}), fields=True
    )
    assert await flows.live(everything) == ["Birthday", "Now gold", "Welcome"]
    assert await flows.live(AffectedResources()) == []
    assert klaviyo.violations == {}


async def test_a_key_without_the_scope_is_reported(
    klaviyo: KlaviyoSandbox, flows: FlowTriggers
) -> None:
    klaviyo.flows.readable = False
    klaviyo.make_segment("Gold")
    with pytest.raises(Blocked) as caught:
        await flows.live(AffectedResources(fields=True))
    assert caught.value.status == 403


@pytest.mark.parametrize("body", ["[]", '{"data": [{}]}', '{"data": [7]}', "{}"])
async def test_a_response_of_unexpected_shape_is_an_error(body: str) -> None:
    rig = scripted(lambda request: httpx.Response(200, text=body))
    rig.limiter.adjust(EVERYTHING, share=1.0)
    groups = KlaviyoGroups(rig.api)
    with pytest.raises(AmbiguousError):
        await groups.members("list", "L1", None)
    with pytest.raises(AmbiguousError):
        await groups.existing(["a@example.com"])
    with pytest.raises(AmbiguousError):
        await groups.find("list", "Members")
