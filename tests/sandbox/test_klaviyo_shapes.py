"""The sandbox answers as Klaviyo does: keys, types, nulls and headers, over real HTTP."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest

from connector.klaviyo.limits import ENDPOINTS

from .klaviyo_account import filled_account
from .klaviyo_case import Case
from .klaviyo_reads import READS
from .klaviyo_refusals import REFUSALS
from .klaviyo_writes import WRITES
from .shapes import differences

_RATE = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")


@pytest.mark.parametrize("case", [*WRITES, *READS, *REFUSALS], ids=str)
async def test_an_answer_has_the_shape_of_klaviyos(case: Case) -> None:
    async with filled_account() as account:
        answer = await account.ask(case)
    assert answer.status_code == case.status
    shape = case.shape
    found = [] if shape is None else list(differences(answer.json(), shape, answer.request))
    assert (found, answer.content if shape is None else b"") == ([], b"")
    assert _headers(answer.headers) == _expected(case, answer.headers)


def _headers(headers: httpx.Headers) -> Mapping[str, str | None]:
    return {name: headers.get(name) for name in ("content-type", "retry-after", *_RATE)}


def _expected(case: Case, found: httpx.Headers) -> Mapping[str, str | None]:
    """`remaining` is compared where the case states it."""
    remaining = case.remaining or found.get("ratelimit-remaining")
    rate = (case.quota, remaining, "0") if case.quota else (None, None, None)
    first = {"content-type": case.content_type, "retry-after": case.retry_after}
    return first | dict(zip(_RATE, rate, strict=True))


def test_the_shape_of_every_operation_that_the_connector_uses_is_stated() -> None:
    stated = {case.operation for case in (*WRITES, *READS)}
    assert {endpoint.route for endpoint in ENDPOINTS} - stated == set()
