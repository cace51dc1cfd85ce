"""The retired words of docs/glossary.md do not come back: in code, comments, texts, docs, tests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.paths import ROOT, tracked_files

RETIRED = {
    r"tells?|told|telling|untold": "sends, reports, says",
    r"hears?|heard|hearsay": "receives, event-sourced",
    r"whom": "who, a person",
    r"he|him|his|himself": "they",
    r"nobody(?!@)|somebody": "no one, a person, a caller",
    r"bears?|borne": "has, carries",
    r"mend(s|ed|ing)?": "fix",
    r"press(es|ed)?": "click, what to do",
    r"stands(?! for)|stood|standing": "is",
    r"lies": "is",
    r"far-?\s?ends?": "remote side, remote API",
    r"(go|goes|going|went) on": "continues",
    r"anew": "again, new",
    r"errands?": "task, command",
    r"roads?": "path, lane",
    r"houses?": "project",
    r"laid": "built",
    r"workshops?": "builder",
    r"doors?": "endpoint",
    r"bells?": "wake-up",
    r"deeds?": "action",
    r"clerks?": "worker",
    r"keepers?|tellers?|greet(s|er|ers|ed|ing|ings)?": "worker, sync",
    r"graves?|bur(y|ied|ies)": "tombstone",
    r"farewells?": "address clean-up",
    r"rehears(e|es|ed|al|als)": "dry run",
    r"historians?": "history import",
    r"sightings?": "person snapshot",
    r"governors?": "rate limiter",
    r"doubts?|doubtful": "ambiguous",
    r"solo": "single",
    r"sharpen(s|ed)?": "add",
    r"hasty": "auto-advancing",
    r"stor(y|ies)": "timeline",
    r"said": "answer, output, detail",
    r"promise[sd]?": "guarantee",
}
"""Pattern of whole words → what to write instead. Words of an identifier count one by one."""

_WORDS = re.compile(
    "|".join(rf"\b(?:{pattern})\b".replace(" ", r"[\s#]+") for pattern in RETIRED), re.IGNORECASE
)
_NOT_PROSE = re.compile(r"(\.lock|\.svg|\.png|^LICENSE)$")


def hits(text: str) -> Iterator[tuple[int, str]]:
    """(line number, retired word) of each hit. `story_of` and `StoryView` contain a word."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", text)
    for match in _WORDS.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, " ".join(re.split(r"[\s#]+", match[0]))


def scanned(*folders: str) -> Sequence[Path]:
    """The tracked text files, or those below `folders` only."""
    return [
        path
        for path in tracked_files()
        if path != Path(__file__)
        and not _NOT_PROSE.search(path.name)
        and (not folders or any(path.is_relative_to(ROOT / folder) for folder in folders))
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("told", ["told"]),
        ("who_told, ToldView", ["told", "Told"]),
        ("what\n# goes\n# on", ["goes on"]),
        ("the far end", ["far end"]),
        ("a bearer token stands for nobody@example.com on the roadmap", []),
    ],
)
def test_a_retired_word_is_found_in_prose_and_in_identifiers(text: str, found: list[str]) -> None:
    assert [word for _, word in hits(text)] == found


def test_no_file_contains_a_retired_word() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word}"
        for path in scanned()
        for number, word in hits(path.read_text("utf-8"))
    ]
    assert not found, f"{len(found)} retired words:\n" + "\n".join(found)
