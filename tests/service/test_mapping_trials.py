"""What a changed mapping would make of dead letters, without sending any."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from connector.config.models import Console
from connector.domain.errors import Problem
from connector.domain.messages import EventMessage, Fault, Skip
from connector.domain.records import Entry
from connector.service import mapping_trials
from connector.service.mapping_trials import MappingTrials
from connector.service.runtime import Rendered
from connector.testing.fakes.clock import FakeClock
from tests.web.api.conftest import ApiHarness


class Mapping:
    """A mapping that renders records by their unique id, and counts them."""

    def __init__(self) -> None:
        self.rendered = 0

    async def render(self, entries: Sequence[Entry]) -> Sequence[Rendered]:
        self.rendered += len(entries)
        return [self._render(entry) for entry in entries]

    def _render(self, entry: Entry) -> Rendered:
        number = int(entry.unique_id.removeprefix("test:"))
        if number % 4 == 0:
            return Fault(Problem.MAPPING_FAILED, "still")
        if number % 4 == 1:
            return Skip("disabled")
        return EventMessage("Metric", entry.unique_id, entry.occurred_at, {}, {})


@pytest.fixture
async def api() -> ApiHarness:
    """Eight records died of M10 under the mapping `v1`."""
    harness = ApiHarness(Console())
    await harness.open()
    await harness.dead_letters(*map(str, range(8)), problem=Problem.MAPPING_FAILED)
    return harness


def trials(api: ApiHarness, mapping: Mapping, version: str, clock: FakeClock) -> MappingTrials:
    runtime: Any = SimpleNamespace(name="acme", mapping=version, render=mapping.render)
    return MappingTrials(api.store.dead_letters, clock, {"acme": runtime})


async def test_what_would_pass_is_counted_and_rules_are_named_apart(api: ApiHarness) -> None:
    found = await trials(api, Mapping(), "v2", FakeClock()).of_cause("acme", "M10")
    assert found is not None
    assert (found.total, found.checked, found.passing, found.skipped) == (8, 8, 4, 2)
    assert not found.sampled


async def test_of_many_only_the_newest_are_tried_and_the_result_says_so(
    api: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping_trials, "SAMPLE", 4)
    found = await trials(api, Mapping(), "v2", FakeClock()).of_cause("acme", "M10")
    assert found is not None
    assert (found.total, found.checked, found.sampled) == (8, 4, True)


async def test_under_an_unchanged_mapping_nothing_is_tried(api: ApiHarness) -> None:
    mapping = Mapping()
    assert await trials(api, mapping, "v1", FakeClock()).of_cause("acme", "M10") is None
    assert mapping.rendered == 0


async def test_what_a_remote_side_refused_is_not_guessed(api: ApiHarness) -> None:
    await api.dead_letters("9")
    mapping = Mapping()
    found = trials(api, mapping, "v2", FakeClock())
    assert await found.of_cause("acme", "K400") is None
    assert await found.of_cause("other", "M10") is None
    assert mapping.rendered == 0


async def test_however_many_pages_show_it_records_are_tried_every_ten_seconds(
    api: ApiHarness,
) -> None:
    clock, mapping = FakeClock(), Mapping()
    found = trials(api, mapping, "v2", clock)
    for _ in range(50):
        await found.of_cause("acme", "M10")
    assert mapping.rendered == 8
    await clock.advance(10.0)
    await found.of_cause("acme", "M10")
    assert mapping.rendered == 16
