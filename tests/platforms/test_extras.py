"""Extras are fetched when a field needs them, kept between reads and fetched again when too old."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from connector.domain.errors import AmbiguousError, Blocked, Problem, Rejected, RetryLater
from connector.domain.lanes import Millis
from connector.platforms.extras import Extra, LoadedExtras, load_extras, with_extras
from connector.ports import PersonRef

NOW = Millis(1_790_000_000_000)
FIELDS = frozenset({"balance", "pass_url", "extras.referral.code"})


class Fetch:
    """The call of an extra: answers `value`, or raises it."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.calls = 0

    async def __call__(self, ref: PersonRef) -> Any:
        self.calls += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


async def load(
    extras: dict[str, Extra],
    *,
    view: dict[str, Any] | None = None,
    refetch: bool = False,
    fields: frozenset[str] = FIELDS,
    now: int = NOW,
) -> LoadedExtras:
    kept = orjson.dumps(view) if view else b""
    ref = PersonRef(1, None, "ana@example.com", kept, refetch=refetch)
    return await load_extras(extras, ref, fields, Millis(now))


async def test_an_extra_fills_its_field_or_one_below_extras() -> None:
    extras = {"pass_url": Extra(Fetch("https://a.b")), "referral": Extra(Fetch({"code": "X"}))}
    loaded = await load(extras)
    view = with_extras({"balance": 5}, loaded.values)
    assert view == {
        "balance": 5,
        "pass_url": "https://a.b",
        "extras": {"referral": {"code": "X"}},
    }
    snapshot = loaded.snapshot(view, frozenset({"balance"}))
    assert snapshot.covers == {"balance", "pass_url", "extras.referral"}
    assert snapshot.view.items() >= view.items()


@pytest.mark.parametrize(
    ("fields", "calls"),
    [
        ({"extras.referral"}, 1),
        ({"extras.referral.code"}, 1),
        ({"extras.referral[0]"}, 1),
        ({"extras"}, 1),
        ({"extras.referrals"}, 0),
        ({"balance", "raw.referral"}, 0),
    ],
)
async def test_an_extra_is_fetched_only_for_fields_that_need_it(
    fields: set[str], calls: int
) -> None:
    fetch = Fetch({"code": "X"})
    await load({"referral": Extra(fetch)}, fields=frozenset(fields))
    assert fetch.calls == calls


async def test_an_extra_is_kept_until_it_is_too_old_or_a_refetch_is_requested() -> None:
    fetch = Fetch("first")
    extras = {"pass_url": Extra(fetch, max_age=10.0)}
    loaded = await load(extras)
    view = loaded.snapshot(with_extras({}, loaded.values), frozenset()).view
    fetch.value = "second"
    assert (await load(extras, view=view, now=NOW + 10_000)).values == {"pass_url": "first"}
    assert (await load(extras, view=view, now=NOW + 10_001)).values == {"pass_url": "second"}
    assert (await load(extras, view=view, refetch=True)).values == {"pass_url": "second"}
    forever = {"pass_url": Extra(fetch)}
    assert (await load(forever, view=view, now=NOW * 2)).values == {"pass_url": "first"}


@pytest.mark.parametrize(
    "failure",
    [
        Rejected(Problem.PLATFORM_REFUSED),
        AmbiguousError(Problem.TIMED_OUT),
        Blocked(Problem.PLATFORM_TARGET, scope="target"),
        Blocked(Problem.PLATFORM_SCOPE, scope="lane"),
        None,
    ],
)
async def test_an_extra_that_cannot_be_fetched_keeps_its_last_value(
    failure: Exception | None,
) -> None:
    extras = {"pass_url": Extra(Fetch(failure))}
    kept = {"pass_url": "old", "extras_at": {"pass_url": 5}}
    loaded = await load(extras, view=kept, refetch=True)
    assert (loaded.values, loaded.fetched_at) == ({"pass_url": "old"}, {"pass_url": 5})
    never = await load(extras)
    assert never.snapshot({"a": 1}, frozenset({"a"})).view == {"a": 1}
    assert not never.values


@pytest.mark.parametrize(
    "failure",
    [Blocked(Problem.PLATFORM_KEY, scope="account"), RetryLater(Problem.PLATFORM_THROTTLED)],
)
async def test_a_failure_of_the_whole_account_fails_the_read(failure: Exception) -> None:
    with pytest.raises(type(failure)):
        await load({"pass_url": Extra(Fetch(failure))})
