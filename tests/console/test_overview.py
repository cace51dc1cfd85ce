"""What the overview makes of a status: the chart, and what a card says. Pure."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import orjson

from connector.console.chart import HEIGHT, chart
from connector.console.pages.overview import card, cards
from connector.console.view import SharedPage, advice
from connector.domain.attention import AttentionItem
from connector.service.overview import attention_view
from connector.service.status import ConnectionStatus, LaneStatus, Status, Throughput
from connector.testing.fakes.clock import FakeClock
from connector.web.access import Principal

QUIET = Throughput(events=[0] * 120, profiles=[0] * 120)


def lane(**changes: object) -> LaneStatus:
    values: dict[str, object] = {
        "lane": "events → klaviyo",
        "destination": "klaviyo",
        "kind": "event",
        "state": "running",
        "problem": None,
        "reason": "",
        "remedy": "",
        "in_console": "",
        "since": None,
        "retry_in": None,
        "ready": 0,
        "in_flight": 0,
        "held": 0,
        "dead": 0,
        "oldest_seconds": None,
        "per_second": 0.0,
        "eta_seconds": None,
        "last_delivered": None,
    }
    return LaneStatus.model_validate(values | changes)


def connection(*lanes: LaneStatus) -> ConnectionStatus:
    return ConnectionStatus.model_construct(
        title="Yotpo",
        enabled=True,
        lanes=list(lanes),
        audiences=[],
        segments=[],
        quota=[],
        throughput=QUIET,
    )


def test_a_chart_has_a_bar_for_each_two_minutes_with_events_and_says_the_same_in_words() -> None:
    found = chart(Throughput(events=[0] * 116 + [10, 30, 0, 80], profiles=[0] * 118 + [4, 0]))
    bars = re.findall(r"M(\d+) \d+V(\d+)", found.bars)
    assert [int(x) for x, _ in bars] == [292, 297]
    low, high = (HEIGHT - int(y) for _, y in bars)
    assert 0 < low < high
    assert found.highest == 40
    assert found.text == (
        "Last 2 hours, per minute. Events: 1.0 on average, 40 at most. "
        "Profiles: 0.0 on average, 2 at most."
    )


def test_where_nothing_was_delivered_there_is_no_chart() -> None:
    found = chart(QUIET)
    assert (found.empty, found.bars, found.line) == (True, "", "")


def test_a_card_says_how_long_what_waits_will_take_and_that_it_does_not_move() -> None:
    moves = lane(ready=10, oldest_seconds=4.0, eta_seconds=9.0, per_second=2.0)
    found = card("acme", connection(moves, lane(kind="profile", ready=2, eta_seconds=30.0)))
    assert (found.waiting, found.eta, found.lag) == (12, 30.0, 4.0)
    found = card("acme", connection(moves, lane(kind="profile", ready=2, oldest_seconds=70.0)))
    assert (found.waiting, found.eta, found.lag) == (12, None, 70.0)


def test_what_needs_a_person_is_counted_for_its_own_connection_only() -> None:
    items = [
        attention_view(AttentionItem(text, text), {"acme", "acme-2"})
        for text in ("acme-2: 1 action", "acme-2 events → klaviyo: stopped", "acme: one", "store")
    ]
    status = Status.model_construct(
        attention=items, connections={"acme": connection(lane()), "acme-2": connection(lane())}
    )
    assert {found.name: found.needs_you for found in cards(status)} == {"acme": 1, "acme-2": 2}


def test_commands_and_pages_in_a_remedy_are_marked_and_nothing_else_is() -> None:
    assert advice("run `a <b>`, or <c>") == "Run <code>a &lt;b&gt;</code>, or &lt;c&gt;"
    assert advice("a lone ` stays") == "A lone ` stays"
    assert advice("look [<here>](/people?q=1)") == 'Look <a href="/people?q=1">&lt;here&gt;</a>'
    assert "href" not in advice("[elsewhere](https://example.com)")


def visit(token: str) -> Any:
    """A visit of an operator's browser, whose forms have this token."""
    principal = Principal("operator", "operator", "loopback")
    request = SimpleNamespace(url=SimpleNamespace(path="/overview/stream"))
    services = SimpleNamespace(clock=FakeClock())
    return SimpleNamespace(
        principal=principal, request=request, services=services, csrf_token=token
    )


def document(text: str) -> Any:
    return SimpleNamespace(
        attention=[],
        verdict=SimpleNamespace(level="ok", text=text),
        replicas=[],
        connections={},
        dead_letters=[],
    )


def test_a_tab_is_sent_the_regions_that_differ_from_those_it_has() -> None:
    page = SharedPage("overview.html", ("verdict", "todo", "cards"))
    first, second, third = document("one"), document("two"), document("three")

    def sent(document: Any, seen: Any, token: str = "t") -> dict[str, str]:
        def values() -> dict[str, Any]:
            return {"document": document, "cards": [], "page_of": str}

        found: dict[str, str] = orjson.loads(page.updates(visit(token), document, values, seen))
        return found

    assert sent(first, None).keys() == {"verdict", "todo", "cards"}
    assert sent(second, first).keys() == {"verdict"}
    assert sent(second, None).keys() == {"verdict", "todo", "cards"}
    assert "three" in sent(third, second)["verdict"]
    assert sent(third, first).keys() == {"verdict", "todo", "cards"}
    assert sent(third, third).keys() == {"verdict", "todo", "cards"}
