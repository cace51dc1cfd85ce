"""What an HTTP answer means: one table for each vendor, read by `error_for`.

    2xx                       no error
    429, 503                  RetryLater      certainly not applied
    403 that is not JSON      RetryLater      a gateway answered, not the API
    every other status        by the table; where it has none:
      3xx                     Blocked         the lane
      4xx                     Rejected        this record will not be taken as it is
      5xx                     AmbiguousError  it may have been applied

What a delivery error means for a record and for its lane is connector.domain.settlement.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
    Scope,
)
from connector.runtime.log import redact

Vendor = Literal["klaviyo", "platform"]

RETRY_STATUSES = frozenset({429, 503})
"""Statuses that mean "not applied, try again", unless a connection configures others."""
_CHALLENGE_PAUSE = 30.0
_MAX_RETRY_AFTER = 3600.0
_DETAIL_MAX = 200
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")
"""An OAuth error code (RFC 6749, 5.2). What is not such a code may echo data."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a status means: `blocks` names the scope that cannot be delivered, `ambiguous` that the
    request may have been applied; with neither the record is rejected."""

    problem: Problem
    blocks: Scope | None = None
    ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class Answers:
    """One vendor's statuses. `redirected` is the meaning of every 3xx that `statuses` does not
    name, `refused` of every other 4xx, `failed` of every other 5xx; `throttled` and `unavailable`
    are the problems of statuses that mean "try again"."""

    statuses: Mapping[int, Meaning]
    redirected: Meaning
    refused: Meaning
    failed: Meaning
    throttled: Problem
    unavailable: Problem

    def meaning(self, status: int) -> Meaning:
        """Of a status that is neither a success nor one that means "try again"."""
        if status in self.statuses:
            return self.statuses[status]
        if status >= 500:
            return self.failed
        return self.redirected if 300 <= status < 400 else self.refused


_FAILED = Meaning(Problem.SERVER_FAULT, ambiguous=True)

ANSWERS: Mapping[Vendor, Answers] = {
    "klaviyo": Answers(
        {
            401: Meaning(Problem.KLAVIYO_KEY, blocks="account"),
            403: Meaning(Problem.KLAVIYO_SCOPE, blocks="lane"),
            404: Meaning(Problem.KLAVIYO_TARGET, blocks="target"),
            408: _FAILED,
            409: Meaning(Problem.KLAVIYO_CONFLICT),
            410: Meaning(Problem.KLAVIYO_REVISION, blocks="account"),
            413: Meaning(Problem.KLAVIYO_TOO_LARGE),
        },
        redirected=Meaning(Problem.KLAVIYO_REDIRECT, blocks="lane"),
        refused=Meaning(Problem.KLAVIYO_REFUSED),
        failed=_FAILED,
        throttled=Problem.KLAVIYO_THROTTLED,
        unavailable=Problem.KLAVIYO_UNAVAILABLE,
    ),
    "platform": Answers(
        {
            401: Meaning(Problem.PLATFORM_KEY, blocks="account"),
            403: Meaning(Problem.PLATFORM_SCOPE, blocks="lane"),
            404: Meaning(Problem.PLATFORM_TARGET, blocks="target"),
            408: _FAILED,
            410: Meaning(Problem.PLATFORM_TARGET, blocks="account"),
        },
        redirected=Meaning(Problem.PLATFORM_TARGET, blocks="lane"),
        refused=Meaning(Problem.PLATFORM_REFUSED),
        failed=_FAILED,
        throttled=Problem.PLATFORM_THROTTLED,
        unavailable=Problem.PLATFORM_UNAVAILABLE,
    ),
}


def error_for(
    vendor: Vendor,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    retry_statuses: frozenset[int] = RETRY_STATUSES,
) -> DeliveryError | None:
    """The delivery error that an answer means; None for a 2xx. `headers` are lower case."""
    if 200 <= status < 300:
        return None
    answers = ANSWERS[vendor]
    detail = _detail(status, body)
    if status in retry_statuses:
        problem = answers.throttled if status == 429 else answers.unavailable
        return RetryLater(problem, detail, status=status, after=retry_after(headers))
    if status == 403 and not _is_json(headers, body):
        return RetryLater(Problem.CHALLENGED, status=status, after=_CHALLENGE_PAUSE)
    meaning = answers.meaning(status)
    if meaning.blocks:
        return Blocked(meaning.problem, detail, scope=meaning.blocks, status=status)
    if meaning.ambiguous:
        return AmbiguousError(meaning.problem, detail, status=status)
    pointers, meta = _pointers(body)
    return Rejected(meaning.problem, detail, status=status, pointers=pointers, meta=meta)


def _is_json(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether the API itself answered. Klaviyo's gateway leaves the content-type out."""
    kind = headers.get("content-type", "").lower()
    if kind:
        return "json" in kind
    try:
        return isinstance(orjson.loads(body), dict)
    except orjson.JSONDecodeError:
        return False


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds of a `Retry-After` header, else of `RateLimit-Reset`, at most an hour; 0 when there
    is neither or it is a date."""
    text = headers.get("retry-after") or headers.get("ratelimit-reset", "0")
    try:
        return min(max(0.0, float(text)), _MAX_RETRY_AFTER)
    except ValueError:
        return 0.0


# ── the body of an error: codes and titles, never its details, which echo our data ───────────────


def _errors(body: bytes) -> list[dict[str, Any]]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    errors = document.get("errors") if isinstance(document, dict) else None
    code = document.get("error") if isinstance(document, dict) else None
    if isinstance(code, str) and _ERROR_CODE.fullmatch(code):
        return [{"code": code}]
    return [e for e in errors if isinstance(e, dict)] if isinstance(errors, list) else []


def _detail(status: int, body: bytes) -> str:
    texts = [_error_text(e) for e in _errors(body)[:3]]
    return f"HTTP {status}" + (f" ({'; '.join(texts)})" if texts else "")


def _error_text(error: Mapping[str, Any]) -> str:
    title = error.get("title", "")
    return redact(f"{error.get('code', '?')}: {title}".removesuffix(": "))[:_DETAIL_MAX]


def _pointers(body: bytes) -> tuple[list[tuple[str, str]], dict[str, object]]:
    """(JSON pointer, text) of every error, and the first `meta` that is not empty."""
    found: list[tuple[str, str]] = []
    meta: dict[str, object] = {}
    for error in _errors(body):
        source = error.get("source")
        pointer = source.get("pointer") if isinstance(source, dict) else None
        found.append((str(pointer or ""), _error_text(error)))
        if not meta and isinstance(error.get("meta"), dict):
            meta = error["meta"]
    return found, meta
