"""Log events are constants that can be searched for, such as `lane_resumed`."""

from __future__ import annotations

import ast
import re

from tests.paths import ROOT, tracked_files

_LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
_EVENT = re.compile(r"[a-z]+(_[a-z]+)+")


def test_log_events_are_constants_and_no_sentences() -> None:
    found = []
    for path in tracked_files():
        if path.suffix != ".py" or not path.is_relative_to(ROOT / "connector"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=logger, attr=level),
                    args=[ast.Constant(value=str(event)), *_],
                ) if level in _LEVELS and "log" in ast.unparse(logger):
                    if not _EVENT.fullmatch(event):
                        found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {event}")
    assert not found
