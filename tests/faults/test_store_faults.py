"""The store fails at its n-th call: before the commit, after it, or for some seconds from it on.

Whatever the daemon was doing, afterwards everything acknowledged ends as guarantee 1 says, nothing
keeps waiting, nothing stays claimed, and every command has a result. The suite tries a part of all
calls, the campaign each of them.
"""

from __future__ import annotations

from typing import get_args

import pytest

from .cases import CASES, Kind, run

KINDS: tuple[Kind, ...] = get_args(Kind)
_EVERY = 61
"""The suite tries one of so many calls, in turn with each kind of fault."""


def check(name: str, number: int, kind: Kind) -> None:
    found, _ = run(name, number, kind)
    if found:
        head = f"{name}: call {number} fails ({kind})"
        pytest.fail("\n".join([head, *found]), pytrace=False)


@pytest.mark.parametrize("name", CASES)
def test_some_calls_of_the_store_fail(name: str) -> None:
    found, calls = run(name, None, "before")
    assert not found
    first = 1 + list(CASES).index(name) % min(_EVERY, calls)
    for turn, number in enumerate(range(first, calls + 1, _EVERY)):
        check(name, number, KINDS[(turn + number) % len(KINDS)])


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_any_call_of_the_store_fails(name: str, kind: Kind) -> None:
    _, calls = run(name, None, "before")
    for number in range(1, calls + 1):
        check(name, number, kind)
