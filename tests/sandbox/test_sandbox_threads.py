"""The sandbox serves in one thread, and tests look at the account from another."""

from __future__ import annotations

from connector.sandbox.klaviyo.event_rules import EventIn, Group
from connector.sandbox.klaviyo.rules import ProfileIn
from connector.sandbox.klaviyo.state import Memory


def record(memory: Memory, unique_id: str) -> None:
    person = ProfileIn(None, {"email": "ana@example.com"}, {}, "")
    event = EventIn("Balance changed", unique_id, None, {}, None, None, False, "")
    memory.apply(Group(person, [event]), 0.0)


def test_an_event_that_arrives_while_the_unique_ids_are_read_disturbs_nothing() -> None:
    memory = Memory()
    record(memory, "jeri:1")
    record(memory, "jeri:2")
    found = memory.unique_ids()
    first = next(found)
    record(memory, "jeri:3")
    assert dict([first, *found]) == {"jeri:1": 1, "jeri:2": 1}
