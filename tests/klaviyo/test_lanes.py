"""The lanes to Klaviyo keep the contract of lanes: the real sinks and renderers over the real HTTP,
in front of the sandbox."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from connector.domain.lanes import EVENTS, LIST_MEMBERS, PROFILES
from connector.domain.outcomes import Pending
from connector.domain.profile_state import write_to_json
from connector.domain.profiles import ProfileWrite
from connector.domain.records import Entry
from connector.klaviyo.limits import LIMITS
from connector.klaviyo.sink.events import EventSink
from connector.klaviyo.sink.members import MemberSink
from connector.klaviyo.sink.profiles import ProfileSink
from connector.mapping import load
from connector.net.http import InProcess
from connector.pipeline.rendering import EventRenderer, MembershipRenderer, ProfileRenderer
from connector.platforms.jericommerce.view import event_view
from connector.sandbox import KlaviyoSandbox
from connector.testing.contracts.lane import FAULTS, LaneContract, LaneRun, LaneSetup, singly
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.ports import App
from tests.paths import ROOT

from .conftest import Rig, make_entry

MAPPING = load(ROOT / "mappings" / "jericommerce.toml").mapping


def rig(app: App, clock: FakeClock) -> Rig:
    return Rig(transport=InProcess(app), limits=dict(LIMITS), clock=clock)


def email_of(seq: int) -> str:
    return f"p{seq}@example.com"


def entry_with(data: Callable[[int], bytes]) -> Callable[[int], Entry]:
    return lambda seq: make_entry(seq, email=email_of(seq), data=data(seq), attempts=0)


class TestEvents(LaneContract):
    @pytest.fixture
    def setup(self, klaviyo: KlaviyoSandbox) -> LaneSetup:
        def data(seq: int) -> bytes:
            return orjson.dumps({"id": f"e{seq}", "email": email_of(seq), "properties": {}})

        return LaneSetup(
            EVENTS,
            klaviyo.app,
            lambda app, clock: (
                EventSink(rig(app, clock).api, clock, late_after=None),
                EventRenderer(MAPPING, event_view, None),
            ),
            entry_with(data),
            email_of,
        )


class TestProfilesSingly(LaneContract):
    @pytest.fixture
    def setup(self, klaviyo: KlaviyoSandbox) -> LaneSetup:
        def data(seq: int) -> bytes:
            return write_to_json(ProfileWrite({"email": email_of(seq)}, {"balance": seq}))

        make = entry_with(data)
        return LaneSetup(
            PROFILES,
            klaviyo.app,
            lambda app, clock: (ProfileSink(rig(app, clock).api), ProfileRenderer()),
            lambda seq: singly(make(seq)),
            email_of,
        )


class TestProfilesInBulk(LaneContract):
    @pytest.fixture
    def setup(self, klaviyo: KlaviyoSandbox) -> LaneSetup:
        def data(seq: int) -> bytes:
            return write_to_json(ProfileWrite({"email": email_of(seq)}, {"balance": seq}))

        return LaneSetup(
            PROFILES,
            klaviyo.app,
            lambda app, clock: (ProfileSink(rig(app, clock).api), ProfileRenderer()),
            entry_with(data),
            email_of,
            queued=True,
            bulk_threshold=0,
        )


class TestJoins(LaneContract):
    @pytest.fixture
    def setup(self, klaviyo: KlaviyoSandbox) -> LaneSetup:
        group = klaviyo.make_list("VIP")

        def data(seq: int) -> bytes:
            return orjson.dumps({"group": group, "joins": True, "email": email_of(seq)})

        return LaneSetup(
            LIST_MEMBERS,
            klaviyo.app,
            lambda app, clock: (
                MemberSink(rig(app, clock).api, trust_ids=True),
                MembershipRenderer(),
            ),
            entry_with(data),
            email_of,
            queued=True,
            bulk_threshold=0,
        )

    async def test_joins_of_a_lane_that_fails_create_jobs_as_well(self, setup: LaneSetup) -> None:
        """It sends a few at a time, in the mode of removals: a stop leaves them in flight."""
        run = LaneRun(setup, 3)
        run.remote.script.append(FAULTS["429"])
        run.start()
        await run.run_for(0.5)
        run.remote.open.clear()
        await run.run_for(60.0)
        assert run.dispatcher.busy
        await run.stop(1.0)
        last = [row.outcomes[-1] for row in run.queue.rows.values()]
        assert [type(outcome) for outcome in last] == [Pending] * 3
        run.remote.open.set()


class TestRemovals(LaneContract):
    @pytest.fixture
    def setup(self, klaviyo: KlaviyoSandbox) -> LaneSetup:
        group = klaviyo.make_list("VIP", *map(email_of, range(1, 100)))

        def data(seq: int) -> bytes:
            return orjson.dumps({"group": group, "joins": False, "email": email_of(seq)})

        make = entry_with(data)
        return LaneSetup(
            LIST_MEMBERS,
            klaviyo.app,
            lambda app, clock: (
                MemberSink(rig(app, clock).api, trust_ids=True),
                MembershipRenderer(),
            ),
            lambda seq: singly(make(seq)),
            lambda seq: klaviyo.profile_id(email_of(seq)) or "",
            bulk_threshold=0,
        )
