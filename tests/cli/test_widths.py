"""Reports fit into a terminal of 80 and of 160 columns: nothing is cut, and what is longer
continues below its own column."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from connector.cli.setup import _table
from connector.cli.timeline_view import timeline
from connector.domain.attention import Check
from connector.domain.errors import Problem

WIDTHS = (80, 160)
LINK = "https://jeri.link/demo/download?token=" + "abcdefgh" * 9
REQUEST = {"endpoint": "POST /api/profile-bulk-import-jobs", "status": 202}
PERSON: dict[str, Any] = {
    "platform_id": "d4a8b1a7-a388-4a8a-aa81-73cf5a66d71a",
    "email": "hugo.ruiz.0191@example.com",
    "read": {"state": "ready", "at": 1_790_000_000_000, "unknown_since": None},
    "write": {"state": "accepted", "problem": None},
    "fields": {
        "balance": {"value": 2388, "confirmed": True},
        "jericommerce_download_wallet_pass_url": {"value": LINK, "confirmed": False},
    },
    "timeline": [
        {
            "at": 1_790_000_000_123,
            "what": what,
            "name": name,
            "state": state,
            "problem": problem,
            "detail": "Klaviyo refused it" if problem else "",
            "data": None,
            "request": REQUEST if state == "accepted" else None,
        }
        for what, name, state, problem in (
            ("event", "Reward redeemed (in-store)", "accepted", None),
            ("write", "profile", "dead", "K400"),
        )
    ],
}
CHECKS = [
    Check("store", "ok", ""),
    Check(
        "server.public_url",
        "warning",
        "Klaviyo and the platforms cannot reach http://127.0.0.1:8787; set the public address of "
        "this server",
    ),
    Check("acme: Klaviyo key", "fault", "HTTP 401", Problem.KLAVIYO_KEY),
]


def lines(part: Any, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as capture:
        console.print(part)
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_timeline_fits(width: int) -> None:
    shown = lines(timeline(PERSON), width)
    assert all(len(line) <= width for line in shown)
    assert sum("2026-09-21T" in line for line in shown) == 3
    text = "".join("".join(line.split()) for line in shown)
    assert "POST/api/profile-bulk-import-jobs→202" in text or width == 80
    assert "jericommerce_download_wallet_pass_urlnotconfirmed" in text
    # The value continues below itself, whole.
    [first] = [line for line in shown if "pass_url" in line]
    column = first.index('"https')
    rest = shown[shown.index(first) :]
    assert "".join(line[column:].strip() for line in rest) == f'"{LINK}"'
    assert all(not line[:column].strip() for line in rest[1:])


@pytest.mark.parametrize("width", WIDTHS)
def test_a_check_fits(width: int) -> None:
    shown = lines(_table(CHECKS), width)
    assert all(len(line) <= width for line in shown)
    assert shown[0] == "ok      store"
    assert [line[:8] for line in shown].count("warning ") == 1
    assert all(line[:8].strip() in ("", "ok", "warning", "FAULT") for line in shown)
    text = " ".join(" ".join(line[8:].strip() for line in shown).split())
    assert "set the public address of this server" in text
    assert f"→ {Problem.KLAVIYO_KEY.remedy}" in text
