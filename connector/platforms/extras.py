"""Extras: what a person's view holds beyond the platform's object of the person, such as a wallet
pass link. Each is fetched by a call of its own and kept between reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from connector.domain.errors import AmbiguousError, Blocked, Rejected
from connector.domain.lanes import Millis
from connector.mapping import VIEW_PATHS, format_path, getter
from connector.mapping.paths import is_blank
from connector.ports import PersonRef, PersonSnapshot

T = TypeVar("T")

_FETCHED_AT = "extras_at"
"""Key of a kept view, beside its fields: when each extra was fetched, in ms."""


@dataclass(frozen=True, slots=True)
class Extra:
    """`fetch` makes the call and requests its own permit; None: the platform has none for this
    person. A fetched value is kept for `max_age` seconds (None: for ever), or until a record of
    the person says `refetch`."""

    fetch: Callable[[PersonRef], Awaitable[Any]]
    max_age: float | None = None


@dataclass(frozen=True, slots=True)
class LoadedExtras:
    """The extras of one person, by name."""

    values: dict[str, Any] = field(default_factory=dict)
    fetched_at: dict[str, Millis] = field(default_factory=dict)

    def snapshot(self, view: dict[str, Any], covers: frozenset[str]) -> PersonSnapshot:
        """The snapshot of a view that was made with these extras; they are covered too."""
        if not self.values:
            return PersonSnapshot(view, covers)
        words = (format_path(_place(name)) for name in self.values)
        return PersonSnapshot({**view, _FETCHED_AT: self.fetched_at}, covers.union(words))


async def load_extras(
    extras: Mapping[str, Extra], ref: PersonRef, fields: frozenset[str], now: Millis
) -> LoadedExtras:
    """The extras that these fields of the view need: those of the last read, else fetched.

    An extra that cannot be fetched keeps its last value: the other fields of the person are sent
    all the same. Raises DeliveryError where the whole account is affected or the platform asks to
    wait.
    """
    loaded = LoadedExtras()
    last_view = orjson.loads(ref.view) if ref.view else {}
    for name, extra in extras.items():
        place = _place(name)
        if not _is_needed(format_path(place), fields):
            continue
        value, at = getter(place)(last_view), last_view.get(_FETCHED_AT, {}).get(name, 0)
        expired = extra.max_age is not None and now - at > extra.max_age * 1000
        if ref.refetch or expired or is_blank(value):
            fetched = await unless_unavailable(extra.fetch(ref))
            if not is_blank(fetched):
                value, at = fetched, now
        if not is_blank(value):
            loaded.values[name], loaded.fetched_at[name] = value, at
    return loaded


def with_extras(view: dict[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
    """The view with these extras: one named like a field of the view fills it, any other is
    below `extras`."""
    filled = dict(view)
    for name, value in extras.items():
        table = filled
        *parents, key = _place(name)
        for parent in parents:
            table = table.setdefault(parent, {})
        table[key] = value
    return filled


async def unless_unavailable(call: Awaitable[T]) -> T | None:
    """The result of a call, None if the platform refuses it or its answer cannot be used: for what
    a read can do without. Raises Blocked for the whole account, and RetryLater."""
    try:
        return await call
    except (Rejected, AmbiguousError):
        return None
    except Blocked as error:
        if error.scope == "account":
            raise
        return None


def _place(name: str) -> tuple[str, ...]:
    return (name,) if name in VIEW_PATHS else ("extras", name)


def _is_needed(word: str, fields: frozenset[str]) -> bool:
    return any(
        field == word or field.startswith((f"{word}.", f"{word}[")) or word.startswith(f"{field}.")
        for field in fields
    )
