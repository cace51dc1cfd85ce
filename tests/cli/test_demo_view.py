"""The demo's screen: cards, the last minute, one line of quota, the last problem."""

from __future__ import annotations

import io

from rich.console import Console

from connector.cli.daemon import DEMO_RATE
from connector.cli.demo_view import Card, Pulse, screen
from connector.config.connections import Klaviyo
from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.outcomes import Request
from connector.klaviyo.limits import LIMITS, UPSERT_PROFILE
from connector.service.status import QuotaStatus


def use(label: str, used: int, allowed: int) -> QuotaStatus:
    text = f"{label}: {used} of {allowed} this minute"
    return QuotaStatus(account="a", endpoint=label, used=used, allowed=allowed, text=text)


def test_the_traffic_leaves_quota_for_what_a_visitor_tries() -> None:
    profiles = LIMITS[UPSERT_PROFILE].steady * Klaviyo().effective_rate_share
    assert 0.6 * profiles > 60 * DEMO_RATE


def card(title: str, **changes: object) -> Card:
    values = {"received": 1_204, "accepted": 1_198, "waiting": 6, "profiles": 87, "people": 88}
    return Card(**{"title": title, "members": None, "pulse": "▁█", **values, **changes})  # type: ignore[arg-type]


def text_of(*cards: Card, failed: Request | None = None, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as capture:
        console.print(
            screen(
                cards,
                elapsed=12.3,
                events=1,
                profiles=2,
                quota=[use("Klaviyo events", 12, 2_100), use("Klaviyo profiles", 90, 450)],
                failed=failed,
            )
        )
    return capture.get().splitlines()


def test_three_cards_fit_side_by_side_on_80_columns() -> None:
    lines = text_of(card("JeriCommerce"), card("Yotpo"), card("White Label Loyalty", members=55))
    assert all(len(line) <= 80 for line in lines)
    assert all(title in lines[0] for title in ("JeriCommerce", "Yotpo", "White Label Loyalty"))
    assert sum("events in" in line for line in lines) == 1
    assert any(line.count("87/88 right") == 3 for line in lines)
    assert sum("on lists" in line for line in lines) == 1


def test_the_fullest_quota_is_one_line_and_the_last_problem_has_its_remedy() -> None:
    request = Request("r", "POST /api/events", Millis(1), 503, 5, Problem.KLAVIYO_UNAVAILABLE)
    text = "\n".join(text_of(card("Yotpo"), failed=request, width=120))
    assert "Klaviyo profiles: 90 of 450 this minute" in text
    assert "Klaviyo events: 12" not in text
    assert "K503 Klaviyo is unavailable → look at Klaviyo's status page; the" in text
    assert "1 event recorded, 2 profiles" in text
    assert "last problem  none" in "\n".join(text_of(card("Yotpo"), width=120))


def test_the_pulse_shows_the_last_minute_with_the_newest_last() -> None:
    pulse = Pulse()
    assert pulse.line() == "▁" * 20
    for second in range(0, 121):
        pulse.add(second, max(0, second - 110) * 10)
    assert pulse.line() == "▁" * 16 + "▃███"
