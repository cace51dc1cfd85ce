"""One remedy for the command line and the console."""

from __future__ import annotations

import re

import pytest

from connector.domain.errors import Problem
from connector.domain.lanes import LANE_KINDS
from connector.domain.remedies import Page, at_command_line, by, in_console

_HAS_A_BUTTON = re.compile(
    r"`connector (actions|approvals|connect|dead-letters|refresh|resume|webhook-builder)\b"
)
REMEDIES = {problem.value: problem.advice for problem in Problem} | {
    kind.title("acme"): kind.dead_remedy for kind in LANE_KINDS
}


def test_a_slot_is_filled_with_commands_or_with_the_page_of_the_console() -> None:
    decide = "check, then decide " + by(Page.NEEDS_YOU, "with `connector actions applied ID`")
    assert at_command_line(decide) == "check, then decide with `connector actions applied ID`"
    assert in_console(decide) == "check, then decide under [Needs you](/attention)"
    settings = "enter it " + by(Page.SETTINGS, "in `.env`")
    assert in_console(settings, "acme") == "enter it under [Settings](/connections/acme/settings)"
    assert in_console(settings) == "enter it under Settings"
    failed = by(Page.FAILED, "with `connector dead-letters list`")
    assert in_console(failed, "acme", "M20").endswith("(/dead-letters?connection=acme&cause=M20)")
    assert in_console("nothing" + by(Page.NONE, "; or `connector check`"), "acme") == "nothing"


@pytest.mark.parametrize("name", REMEDIES)
def test_the_console_names_no_command_where_it_has_a_button(name: str) -> None:
    remedy = REMEDIES[name]
    for text in (at_command_line(remedy), in_console(remedy, "acme", "M20")):
        assert not re.search(r"[{}]", text)
    assert not _HAS_A_BUTTON.search(in_console(remedy, "acme"))
