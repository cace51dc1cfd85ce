"""Files, tests and headings that the documents refer to exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.test_docs import PAGES, name_of
from tests.paths import ROOT

_FILE = re.compile(r"`((?:bench|connector|deploy|docs|mappings|tests)/[a-z0-9_./-]+)")
_TEST = re.compile(r"`((?:connector|tests)/[a-z0-9_./]+\.py)::(test_\w+)`")
_LINK = re.compile(r"\]\(([^)\s#:]*)#([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.M)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = _HEADING.findall(page.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_named_file_exists(page: Path) -> None:
    missing = [name for name in _FILE.findall(page.read_text()) if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_named_test_exists(page: Path) -> None:
    missing = [
        f"{file}::{test}"
        for file, test in _TEST.findall(page.read_text())
        if not re.search(rf"\bdef {test}\(", (ROOT / file).read_text())
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_to_a_heading_resolves(page: Path) -> None:
    links = _LINK.findall(page.read_text())
    missing = [
        f"{file}#{anchor}"
        for file, anchor in links
        if anchor not in anchors(page.parent / file if file else page)
    ]
    assert not missing


def test_an_anchor_is_made_of_a_heading() -> None:
    assert {"a-platform-of-your-own", "back-up-and-restore"} <= {
        anchor for page in PAGES for anchor in anchors(page)
    }
