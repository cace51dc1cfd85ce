"""JSON of every kind, and JSON with one value replaced: what a remote side may send."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import orjson
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=9), inner, max_size=2)
    ),
    max_leaves=3,
)


ODD: tuple[Any, ...] = (None, [], {}, "", "x", -7, True, [{}], "\0", {"a": 1})
"""Values that may come where another kind is expected."""


def encoded(value: Any) -> bytes:
    """JSON, or bytes as they are."""
    # Numbers beyond 64 bits and lone surrogates are JSON too.
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def decoded(body: bytes) -> Any:
    """The JSON of a response; None if it is not JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value within a JSON value; of a list only that of the first item."""
    pairs: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, dict):
        pairs = iter(value.items())
    elif isinstance(value, list) and value:
        pairs = iter([(0, value[0])])
    for key, inner in pairs:
        yield (*at, key)
        yield from places(inner, (*at, key))


def put_at(value: Any, place: tuple[Any, ...], put: Any) -> Any:
    """The JSON value with `put` at this place."""
    if not place:
        return put
    changed = copy.copy(value)
    changed[place[0]] = put_at(value[place[0]], place[1:], put)
    return changed


def without(value: Any, place: tuple[Any, ...]) -> Any:
    """The JSON value without the value at this place."""
    changed = copy.copy(value)
    if len(place) > 1:
        changed[place[0]] = without(value[place[0]], place[1:])
    else:
        del changed[place[0]]
    return changed
