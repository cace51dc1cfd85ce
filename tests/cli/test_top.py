"""The screen of `top`: what needs a person is never cut off, and connections scroll below it."""

from __future__ import annotations

import io

from rich.console import Console

from connector.cli import status_view
from connector.cli.status import Screen
from connector.service.status import (
    Attention,
    ConnectionStatus,
    LaneStatus,
    QuotaStatus,
    Status,
    Verdict,
)

from .conftest import Call, Folder

NOW = 1_790_000_000_000


def lane(state: str = "running", ready: int = 0) -> LaneStatus:
    return LaneStatus.model_validate(
        {
            **{"lane": "events → klaviyo", "destination": "klaviyo", "kind": "event"},
            **{"state": state, "problem": None, "reason": "", "remedy": "", "since": None},
            **{"in_console": "", "retry_in": None},
            **{"ready": ready, "in_flight": 0, "held": 0, "dead": 0},
            **{"oldest_seconds": None, "per_second": 0.0, "eta_seconds": None},
            "last_delivered": NOW - 12_000,
        }
    )


def connection(*lanes: LaneStatus) -> ConnectionStatus:
    return ConnectionStatus.model_validate(
        {
            **{"title": "Yotpo", "source": "yotpo", "mode": "live", "enabled": True},
            **{"modules": ["events"], "lanes": list(lanes), "audiences": [], "segments": []},
            **{
                "streams": [],
                "skipped": {},
                "unattached": 2,
                "throughput": {"events": [], "profiles": []},
                "actions": None,
                "people": None,
                "quota": [],
            },
            **{"last_received": None, "received": {}, "last_refusal": None, "refusals": []},
            "last_delivered": None,
        }
    )


def with_quota(account: str, **used: int) -> ConnectionStatus:
    """A connection with so many requests of 200 in the last minute, by endpoint."""
    quota = [
        QuotaStatus(
            account=account,
            endpoint=name,
            used=number,
            allowed=200,
            text=f"Klaviyo {name}: {number} of 200 this minute",
        )
        for name, number in used.items()
    ]
    return connection(lane()).model_copy(update={"quota": quota})


def item(number: int) -> Attention:
    return Attention(
        key=f"lane {number}",
        text=f"shop-{number} events → klaviyo is blocked: Klaviyo rejected the key",
        code="K401",
        remedy="enter a valid private key in `.env`, then `connector reload`",
        in_console="",
        connection=f"shop-{number}",
        since=NOW - 60_000,
        retry_in=None,
    )


def status(items: int, connections: dict[str, ConnectionStatus]) -> Status:
    return Status(
        version="0.1.0",
        at=NOW,
        verdict=Verdict(level="attention", text=f"{items} things need you, 7 records wait"),
        running=True,
        stopped_since=None,
        holder="host/1/-/a",
        replicas=[],
        public_url="https://loyalty.example",
        reachable=True,
        attention=[item(n) for n in range(items)],
        degraded=[],
        connections=connections,
        dead_letters=[],
        approvals=[],
        backfills=[],
    )


def console(height: int = 24, width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, highlight=False)


def shown(screen: Screen, of: Console, position: int = 0) -> list[str]:
    with of.capture() as capture:
        of.print(screen.at(position), soft_wrap=True)
    return [line.rstrip() for line in capture.get().splitlines()]


FIFTY = {f"shop-{n:02}": connection(lane(ready=n)) for n in range(50)}


def test_what_needs_a_person_is_whole_with_fifty_connections_at_80_by_24() -> None:
    terminal = console()
    screen = Screen(terminal, status(3, FIFTY))
    lines = shown(screen, terminal)
    assert len(lines) <= 24
    text = " ".join(" ".join(lines).split())
    for n in range(3):
        assert f"shop-{n} events → klaviyo is blocked: Klaviyo rejected the key" in text
    assert text.count("→ enter a valid private key in `.env`, then `connector reload`") == 3
    assert lines[0] == "3 things need you, 7 records wait"
    assert lines[-1].endswith("more lines: ↓ or space")


def test_connections_in_trouble_are_first_and_all_can_be_scrolled_to() -> None:
    connections = {**FIFTY, "zebra": connection(lane("blocked")), "yak": connection(lane("held"))}
    terminal = console()
    screen = Screen(terminal, status(1, connections))
    names = []
    for position in range(screen.last_position + 1):
        lines = shown(screen, terminal, position)
        assert len(lines) <= 24
        assert lines[0] == "1 things need you, 7 records wait"
        for line in lines:
            name = line.partition(" ")[0]
            if name in connections and name not in names:
                names.append(name)
    assert names[:3] == ["zebra", "yak", "shop-49"]
    assert len(names) == 52
    assert shown(screen, terminal, 10_000)[-1] == "q: end"


def test_more_than_a_screen_of_what_needs_a_person_scrolls_too() -> None:
    terminal = console()
    screen = Screen(terminal, status(40, FIFTY))
    text = "\n".join(
        line
        for position in range(screen.last_position + 1)
        for line in shown(screen, terminal, position)
    )
    assert all(f"shop-{n} events" in text for n in range(40))
    assert shown(screen, terminal)[0] == "40 things need you, 7 records wait"


def test_a_wide_terminal_shows_when_each_lane_delivered_last() -> None:
    for width, there in ((80, False), (160, True)):
        terminal = console(48, width)
        lines = shown(Screen(terminal, status(0, {"shop": connection(lane())})), terminal)
        assert any("last sent" in line for line in lines) == there
        assert all(len(line) <= width for line in lines)


def test_events_without_fresh_fields_are_shown() -> None:
    for width in (80, 160):
        terminal = console(48, width)
        lines = shown(Screen(terminal, status(0, {"shop": connection(lane())})), terminal)
        assert any("2 events sent without fresh fields" in line for line in lines)


def quota_lines(**connections: ConnectionStatus) -> list[str]:
    console = Console(file=io.StringIO(), width=160)
    for part in status_view.tail(status(0, connections)):
        console.print(part)
    output = console.file
    assert isinstance(output, io.StringIO)
    return [line.strip() for line in output.getvalue().splitlines()]


def test_the_quota_of_an_account_is_shown_once_the_nearest_to_its_limit_first() -> None:
    shared = {"events": 60, "profiles": 150, "accounts": 1, "flows": 8}
    lines = quota_lines(
        north=with_quota("a", **shared), south=with_quota("a", **shared), west=with_quota("b", x=19)
    )
    assert lines == [
        "Requests in the last minute",
        "Klaviyo profiles: 150 of 200 this minute (north, south)",
        "Klaviyo events: 60 of 200 this minute (north, south)",
        "3 other limits: 10 % used at most",
    ]


def test_where_little_is_used_the_most_used_limit_is_shown() -> None:
    lines = quota_lines(**{f"c{n}": with_quota("a", events=3, lists=0) for n in range(5)})
    assert lines[1:] == [
        "Klaviyo events: 3 of 200 this minute (5 connections)",
        "1 other limit: 1 % used at most",
    ]


def test_a_connection_with_records_has_received_something() -> None:
    """A process that was killed could not save when."""

    def text(*lanes: LaneStatus) -> str:
        console = Console(file=io.StringIO(), width=80)
        found = status(0, {"acme": connection(*lanes)})
        console.print(status_view.connection("acme", found, console.width))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    assert "nothing received yet" in text(lane())
    assert "last received: unknown" in text(lane(ready=3))


def test_without_a_terminal_it_ends_and_names_what_prints_the_same(
    call: Call, folder: Folder
) -> None:
    result = call("top", at=folder)
    assert (result.code, result.out) == (2, "")
    assert "connector status" in result.err
