"""From a stored record to a message: what must not depend on the attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import orjson
import pytest

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Millis
from connector.domain.messages import EventMessage, Fault, Skip
from connector.domain.records import Entry
from connector.mapping import compile_mapping, load
from connector.pipeline.profile_reads import PassThrough
from connector.pipeline.rendering import EventRenderer, GatedRenderer, render_entry
from connector.platforms.jericommerce.view import event_view
from connector.ports import FreshView
from connector.testing.fakes.store import memory_store
from tests.paths import ROOT

NOW = Millis(1_790_000_000_000)
MAPPING = load(ROOT / "mappings" / "jericommerce.toml").mapping


def entry(**fields: object) -> Entry:
    body = {"id": "e1", "email": "ada@example.com", "properties": {"amount": 5}}
    made = Entry(
        seq=1,
        unique_id="jericommerce:e1",
        name="Balance changed",
        occurred_at=NOW,
        received_at=NOW,
        email="ada@example.com",
        person=7,
        data=orjson.dumps(body),
        attempts=1,
        mode=DeliveryMode.BATCH,
        mapping=MAPPING.version,
        backfill=False,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


class Views:
    """connector.ports.Reads, as far as a renderer asks it."""

    def __init__(self, view: FreshView) -> None:
        self.view = view

    async def fresh_views(self, people: Sequence[int]) -> dict[int, FreshView]:
        return {7: self.view} if 7 in people else {}


@pytest.mark.parametrize("attempts", [1, 2, 9])
@pytest.mark.parametrize("mode", DeliveryMode)
def test_the_unique_id_and_the_identity_are_the_same_at_every_attempt(
    attempts: int, mode: DeliveryMode
) -> None:
    renderer = EventRenderer(MAPPING, event_view, memory_store().facts)
    first = renderer.render(entry())
    again = renderer.render(entry(attempts=attempts, mode=mode))
    assert isinstance(first, EventMessage)
    assert again == first
    assert first.unique_id == "jericommerce:e1"


async def test_a_possibly_applied_record_is_rendered_with_its_first_mapping() -> None:
    facts = memory_store().facts
    older = compile_mapping(
        MAPPING.text.replace('name = "Balance changed"', 'name = "Points"')
        if 'name = "Balance changed"' in MAPPING.text
        else MAPPING.text.replace('prefix = ""', 'prefix = "Old "')
    )
    await facts.save_mapping(older.version, older.text, now=NOW)
    renderer = EventRenderer(MAPPING, event_view, facts)
    ambiguous = entry(mode=DeliveryMode.SINGLE, mapping=older.version)
    await renderer.prepare([ambiguous])
    old, fresh = renderer.render(ambiguous), renderer.render(entry())
    assert isinstance(old, EventMessage)
    assert isinstance(fresh, EventMessage)
    assert old.metric != fresh.metric


@pytest.mark.parametrize(
    ("view", "at", "writing", "attached"),
    [
        ({"email": "ada@example.com", "balance": 9}, NOW, False, True),
        ({"email": "ada@example.com", "balance": 9}, NOW - 1, False, False),
        ({"email": "ada@example.com", "balance": 9}, NOW, True, False),
        ({"email": "new@example.com", "balance": 9}, NOW, False, False),
    ],
    ids=["fresh", "read before the event", "a write is in flight", "another address"],
)
async def test_only_a_fresh_view_of_the_same_address_is_attached(
    view: dict[str, object], at: int, writing: bool, attached: bool
) -> None:
    reads = Views(FreshView(view, Millis(at), writing))
    renderer = EventRenderer(MAPPING, event_view, memory_store().facts, reads)  # type: ignore[arg-type]
    await renderer.prepare([entry()])
    message = renderer.render(entry())
    assert isinstance(message, EventMessage)
    assert ("properties" in message.attributes) == attached
    assert ("balance_after" in message.properties) == attached


@pytest.mark.parametrize("attach", [True, False])
async def test_a_record_that_lost_its_address_is_skipped_with_its_reason(attach: bool) -> None:
    mapping = compile_mapping(
        MAPPING.text.replace("attach_profile = true", f"attach_profile = {str(attach).lower()}")
    )
    for word in ("placeholder", "restricted"):
        reads = Views(FreshView({"withheld": word}, NOW, False))
        renderer = EventRenderer(mapping, event_view, memory_store().facts, reads)  # type: ignore[arg-type]
        nameless = entry(email=None, data=orjson.dumps({"id": "e1", "properties": {}}))
        await renderer.prepare([nameless])
        assert renderer.render(nameless) == Skip(word)  # type: ignore[arg-type]
        assert isinstance(renderer.render(entry()), EventMessage)


def test_a_record_that_cannot_be_rendered_is_a_fault() -> None:
    fault = render_entry(EventRenderer(MAPPING, event_view, None), entry(data=b"[]"))
    assert isinstance(fault, Fault)
    assert fault.problem is Problem.MAPPING_FAILED


def test_an_event_caused_by_our_action_carries_its_reference() -> None:
    renderer = EventRenderer(MAPPING, event_view, memory_store().facts)
    body = {"id": "e1", "properties": {"amount": 5, "reason": "Survey \u00b7 lc0123456789"}}
    echo = renderer.render(entry(data=orjson.dumps(body)))
    plain = renderer.render(
        entry(data=orjson.dumps(body | {"id": "xlc0123456789", "properties": {}}))
    )
    assert isinstance(echo, EventMessage)
    assert isinstance(plain, EventMessage)
    assert echo.properties["connector_action"] == "lc0123456789"
    assert "connector_action" not in plain.properties


@pytest.mark.parametrize("live", [True, False])
def test_what_was_received_while_nothing_was_sent_is_skipped_at_any_time(live: bool) -> None:
    """Also where the process ended before it was settled, and runs live since."""
    renderer = GatedRenderer(PassThrough(), live=live)
    assert renderer.render(entry(suppressed="shadow")) == Skip("shadow")
    other = entry()
    fault = Fault(Problem.NOT_LIVE, Problem.NOT_LIVE.meaning)
    assert renderer.render(other) == (other if live else fault)
    reads = GatedRenderer(PassThrough(), live=live, is_read=lambda one: True)
    assert reads.render(other) == other
