"""Text of remote systems is shown, and controls no terminal."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest
from sqlalchemy import update

from connector.cli import terminal
from connector.runtime import log
from connector.runtime.printable import one_line, printable
from connector.store import schema
from connector.store.tables import outbox
from tests.paths import ROOT

from .conftest import Call, Folder

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b2J\rgone\x7f\u202etxt"
ESCAPED = r"\x1b]0;owned\x07\x1b[2J\x9b2J\x0dgone\x7f\u202etxt"


def test_control_characters_are_escaped_and_other_text_is_not() -> None:
    assert printable(HOSTILE) == ESCAPED
    assert printable("Zoë\t5 → 6 €\n") == "Zoë\t5 → 6 €\n"
    assert one_line("a\nb\tc") == r"a\x0ab\x09c"


@pytest.mark.parametrize(
    "words", ["dead-letters list", "explain acme ana@example.com", "dead-letters show 1"]
)
def test_what_a_platform_sent_is_printed_escaped_and_on_its_own_line(
    call: Call, folder: Folder, words: str
) -> None:
    folder.ingest("ana@example.com")
    values = {"name": f"{HOSTILE}\nforged line", "state": 5, "problem": "E10", "detail": HOSTILE}

    def plant(c: object) -> None:
        c.execute(update(outbox).values(values))  # type: ignore[attr-defined]
        c.commit()  # type: ignore[attr-defined]

    schema.with_connection(f"sqlite:///{folder.store}", plant)
    result = call(*words.split(), at=folder)
    assert result.code == 0, result.err
    assert "owned" in result.out
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", result.out)
    assert "\nforged line" not in result.out


def test_errors_are_printed_escaped(call: Call, folder: Folder) -> None:
    folder.ingest("ana@example.com")
    result = call("explain", HOSTILE, "x", at=folder)
    assert result.code != 0
    assert "gone" in result.err
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", result.err)


def test_a_rich_console_keeps_its_own_colours_only() -> None:
    from rich.text import Text

    out = io.StringIO()
    console = terminal.console(force_terminal=True, color_system="standard", width=200)
    console.file = out
    console.print(Text(HOSTILE.replace("\r", ""), style="red"))
    assert out.getvalue().startswith("\x1b[31m" + r"\x1b]0;owned")
    assert out.getvalue().count("\x1b") == 2


def test_the_command_line_makes_its_consoles_in_one_place() -> None:
    made = re.compile(r"\bConsole\(|\bLive\((?!.*console=)|rich\.print|get_console")
    assert [
        path.name
        for path in (ROOT / "connector" / "cli").glob("*.py")
        if path.name != "terminal.py" and made.search(path.read_text())
    ] == []


def test_a_log_line_contains_no_control_characters(restore_logging_config: None) -> None:
    out = io.StringIO()
    log.configure(stream=out)
    log.get("test").warning("name_read", name=f"{HOSTILE}\nforged line")
    logging.getLogger("library").warning(HOSTILE)
    written = out.getvalue()
    assert written.count("\n") == 2
    assert "\x07" not in written
    assert "\x9b" not in written


def test_streams_are_restored() -> None:
    before = sys.stdout, sys.stderr
    with terminal.protected_streams():
        assert sys.stdout is not before[0]
        assert sys.stdout.encoding == before[0].encoding
    assert (sys.stdout, sys.stderr) == before
