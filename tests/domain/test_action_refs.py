"""The reference of an action is found in what platforms return."""

from __future__ import annotations

import pytest

from connector.domain.actions import REF_PATTERN


@pytest.mark.parametrize(
    "text",
    ["lc0123456789", '{"reason":"Welcome lcabcdef0123."}', "é lc0123456789", "(lc0123456789)"],
)
def test_it_is_found_as_a_word(text: str) -> None:
    found = REF_PATTERN.search(text.encode())
    assert found
    assert found[0].decode() in text


@pytest.mark.parametrize(
    "text", ["wlc0123456789", "_lc0123456789", "lc0123456789a", "lc012345678", "LC0123456789", ""]
)
def test_it_is_not_found_in_other_words(text: str) -> None:
    assert REF_PATTERN.search(text.encode()) is None
