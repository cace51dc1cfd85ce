"""The documents say what the code does: codes, commands, links, metrics, and nothing of the place
they were written in."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from connector.cli import app
from connector.domain.errors import Problem
from connector.pipeline.rendering import ORIGIN_PROPERTY
from connector.runtime.metrics import Metrics
from connector.store.tables import metadata
from tests.paths import ROOT, tracked_files

PROBLEMS = ROOT / "docs" / "problems"
AT_TOP = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = sorted(
    [*(ROOT / name for name in AT_TOP if (ROOT / name).exists()), *ROOT.glob("docs/**/*.md")]
)
_FENCE = re.compile(r"^ *```.*?^ *```", re.M | re.S)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return _FENCE.sub("", page.read_text())


# ── problem codes ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("problem", Problem, ids=str)
def test_every_problem_has_a_page_that_names_it(problem: Problem) -> None:
    text = (PROBLEMS / f"{problem}.md").read_text()
    assert text.startswith(f"# {problem}: {problem.meaning}\n")
    for label in ("Meanwhile", "Likely causes", "Look at", "What to do", "The records"):
        assert f"- **{label}.** " in text
    assert 10 <= len(text.splitlines()) <= 25


def test_the_index_has_every_problem_with_its_meaning_and_remedy() -> None:
    text = (PROBLEMS / "README.md").read_text()
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (.+?) \| (.+) \|$", text, re.M)
    assert all(code == page for code, page, _, _ in rows)
    assert [(code, meaning, remedy) for code, _, meaning, remedy in rows] == [
        (problem.value, problem.meaning, problem.remedy) for problem in Problem
    ]


@pytest.mark.parametrize("problem", Problem, ids=str)
def test_every_problem_says_what_it_affects_and_what_to_do(problem: Problem) -> None:
    for text in (problem.effect, problem.remedy):
        assert text
        assert text[0].islower() or text.startswith(("`", "Klaviyo"))
        assert not text.endswith(".")
    for command in re.findall(r"`(connector [^`]+)`", problem.remedy):
        assert fault_of(command) is None


def test_no_page_exists_for_an_unknown_code() -> None:
    pages = {page.stem for page in PROBLEMS.glob("*.md")}
    assert pages == {problem.value for problem in Problem} | {"README"}


# ── commands ─────────────────────────────────────────────────────────────────────────────────────


def commands(page: Path) -> Iterator[str]:
    """Commands in code blocks and code spans: texts that begin with `connector `."""
    for block in _FENCE.findall(page.read_text()):
        for line in block.splitlines():
            line = line.strip().removeprefix("$ ")
            if line.startswith("connector "):
                yield from re.split(r"\s(?:\||>|&&|;|#)\s*", line)[:1]
    for span in _SPAN.findall(prose(page)):
        text = " ".join(span.split())
        if text.startswith("connector "):
            yield text


@functools.cache
def _command_line() -> Any:
    return typer.main.get_command(app)


def fault_of(command: str) -> str | None:
    """Why a command line would not be understood; None when it would. `…` and words in capitals
    stand for something."""
    here: Any = _command_line()
    words = shlex.split(re.sub(r"[\[\]]", "", command))[1:]
    given = 0
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            name, equals, _ = word.partition("=")
            options = {o: p for p in here.params for o in (*p.opts, *p.secondary_opts)}
            if name == "--help":
                continue
            if name not in options:
                return f"`{here.name}` has no option {name}"
            if not equals and not options[name].is_flag and not (words and words.pop(0)):
                return f"{name} needs a value"
        elif hasattr(here, "commands"):
            if word not in here.commands and "start" in here.commands:
                # `backfill CONNECTION` is `backfill start CONNECTION`.
                here, words = here.commands["start"], [word, *words]
                continue
            if word not in here.commands:
                return f"no command `{word}` below `{here.name}`"
            here = here.commands[word]
        else:
            arguments = [p for p in here.params if p.param_type_name == "argument"]
            given += 1
            if not any(p.nargs == -1 for p in arguments) and given > len(arguments):
                return f"`{here.name}` takes no `{word}`"
    return None


@pytest.mark.parametrize(
    ("command", "good"),
    [
        ("connector dead-letters list --cause E10", True),
        ("connector --config PATH run --until-idle", True),
        ("connector dead-letters retry [ID…]", True),
        ("connector pause", True),
        ("connector fly", False),
        ("connector dead-letters burn", False),
        ("connector run --fast", False),
        ("connector status ID", False),
    ],
)
def test_real_commands_are_distinguished_from_invented_ones(command: str, good: bool) -> None:
    assert (fault_of(command) is None) == good


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_documented_command_exists(page: Path) -> None:
    faults = {command: fault for command in commands(page) if (fault := fault_of(command))}
    assert not faults


# ── links ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_resolves(page: Path) -> None:
    targets = _LINK.findall(_SPAN.sub("", prose(page)))
    inside = [t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:", t)]
    assert not [target for target in inside if target and not (page.parent / target).exists()]


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────


def declared() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name as Prometheus shows it → type and labels."""
    metrics = Metrics("test")
    found = {}
    for family in metrics.registry.collect():
        if family.name.startswith("connector_"):
            shown = family.name + ("_total" if family.type == "counter" else "")
            found[shown] = (family.type, metrics.label_names[family.name])
    return found


def test_exactly_the_existing_metrics_are_documented_with_type_and_labels() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(connector_\w+)` \| (\w+) \| ([\w, ]*?) ?\| .+ \| .+ \|$", text, re.M)
    documented = {
        name: (kind, tuple(labels.split(", ")) if labels else ()) for name, kind, labels in rows
    }
    assert len(rows) == len(documented)
    assert documented == declared()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_metric_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"\bconnector_[a-z_]+", page.read_text())) - {ORIGIN_PROPERTY}
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in named}
    assert shown <= declared().keys()


# ── what must stand in no file ───────────────────────────────────────────────────────────────────


def test_no_tracked_file_names_a_package_registry_or_a_path_of_a_machine() -> None:
    # Put together here, so that this file does not name them itself.
    hosts = [
        ".".join(parts)
        for parts in (
            ("pypi", "org"),
            ("python" + "hosted", "org"),
            ("npmjs", "org"),
            ("npmjs", "com"),
            ("anaconda", "org"),
        )
    ]
    folders = [f"/{name}/" for name in ("work", "root", "home", "Users")]
    # A host in any case; a folder as it is written, for APIs have paths of such names too.
    names = "|".join(re.escape(host) for host in hosts)
    looked_for = re.compile(f"(?i:{names})|{'|'.join(folders)}")
    found = [
        f"{file.relative_to(ROOT)}: {hit[0]}"
        for file in tracked_files()
        if (hit := looked_for.search(file.read_bytes().decode("utf-8", "replace")))
    ]
    assert not found


def test_httpx2_is_in_no_lock_file() -> None:
    locks = sorted(ROOT.glob("requirements*.lock"))
    assert locks
    for lock in locks:
        names = {
            re.split(r"[=<>\[; ]", line)[0].lower()
            for line in lock.read_text().splitlines()
            if line[:1].isalpha()
        }
        assert "httpx" in names
        assert not names & {"httpx2", "httpcore2"}


def test_security_lists_where_every_table_of_the_store_is_described() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 5]
    named = [name for row in rows[2:] for name in re.findall(r"`(\w+)`", row[2])]
    assert sorted(named) == sorted(metadata.tables)
