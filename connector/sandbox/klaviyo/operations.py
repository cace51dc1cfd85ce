"""Klaviyo's operations: their quotas, and the headers that every request needs.

Guess: every revision but 2026-10-15 is answered 410.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.types import Scope

from connector.sandbox.gate import Operation
from connector.sandbox.klaviyo.errors import errors, refusal
from connector.sandbox.limits import Quota

REVISION = "2026-10-15"

_M, _L, _XL = Quota(10, 150), Quota(75, 750), Quota(350, 3500)
_XS = Quota(1, 15)
_JOB = "/api/profile-bulk-import-jobs"
_CONSENT_JOBS = (
    "subscription-bulk-create",
    "subscription-bulk-delete",
    "suppression-bulk-create",
    "suppression-bulk-delete",
)
QUOTAS = {
    "POST /api/events": _XL,
    "GET /api/events": _XL,
    "POST /api/event-bulk-create-jobs": _M,
    "GET /api/accounts": _XS,
    "GET /api/metrics": _M,
    "POST /api/profile-import": _L,
    "POST /api/profiles": _L,
    "GET /api/profiles": _L,
    "GET /api/profiles/{id}": _L,
    "PATCH /api/profiles/{id}": _L,
    f"POST {_JOB}": _M,
    f"GET {_JOB}": _M,
    f"GET {_JOB}/{{id}}": _M,
    f"GET {_JOB}/{{id}}/import-errors": _M,
    f"GET {_JOB}/{{id}}/profiles": _M,
    "POST /api/lists": Quota(10, 150, 150),
    "GET /api/lists": _L,
    "GET /api/lists/{id}": _L,
    "GET /api/lists/{id}/profiles": _L,
    "GET /api/lists/{id}/relationships/profiles": _L,
    "POST /api/lists/{id}/relationships/profiles": _M,
    "DELETE /api/lists/{id}/relationships/profiles": _M,
    "GET /api/segments": _L,
    "GET /api/segments/{id}": _L,
    "GET /api/segments/{id}/profiles": _L,
    "GET /api/segments/{id}/relationships/profiles": _L,
    "GET /api/flows": Quota(3, 60),
    "POST /api/data-privacy-deletion-jobs": Quota(3, 60),
    "GET /api/application-installs": _M,
    **{f"POST /api/profile-{job}-jobs": _L for job in _CONSENT_JOBS},
}
"""Requests per second, minute and day, per account, from the spec's `x-klaviyo-ratelimit`."""

BETA = "/api/application-installs"
"""Needs the beta revision."""
CONSENT = ("/api/profile-subscription-bulk-", "/api/profile-suppression-bulk-")
"""Endpoints that change consent. A loyalty connector must not call them."""

_RESOURCE = re.compile(r"/api/(profiles|profile-bulk-import-jobs|lists|segments)/[^/]+(/.+)?")


def operation(method: str, path: str) -> Operation:
    """The operation of a request; unknown ones are "other"."""
    path = path.rstrip("/")
    found = _RESOURCE.fullmatch(path)
    if found:
        path = f"/api/{found[1]}/{{id}}{found[2] or ''}"
    elif path.startswith(CONSENT):
        return Operation(f"{method} {path}", "consent")
    elif path.startswith("/oauth/"):
        return Operation(f"{method} {path}", path.removeprefix("/"))
    label = f"{method} {path}"
    return Operation(label, path.removeprefix("/api/")) if label in QUOTAS else OTHER


OTHER = Operation("other", "other")


def extra_quotas(label: str, query: QueryParams) -> Iterator[tuple[str, Quota, bool]]:
    """Additional quotas of a read, by the additional fields that it requests, and whether the
    answer's headers show this quota instead of the operation's (recorded live)."""
    if query.get("additional-fields[profile]", "").find("predictive_analytics") >= 0:
        yield "predictive_analytics", _M, False
    if label == "GET /api/profiles/{id}" and query.get("include"):
        yield f"{label} include", _XS, False
    if label == "GET /api/segments/{id}" and query.get("additional-fields[segment]"):
        yield f"{label} profile_count", _XS, True
    if label == "GET /api/lists/{id}" and query.get("additional-fields[list]"):
        yield f"{label} profile_count", _XS, True


def key_rejected() -> Response:
    """The response to a private key that is not one of the account's."""
    return errors(401, [("Missing or invalid private key.", {"pointer": "/data/"})])


def reject(
    scope: Scope, headers: dict[bytes, bytes], authorized: bool, violations: Counter[str]
) -> Response | None:
    """The response to a request with a wrong key, revision or media type; None if it is valid."""
    given = headers.get(b"authorization")
    if given is None:
        violations["authorization"] += 1
        detail = "Missing or invalid authorization scheme. Please use Klaviyo-API-Key."
        return errors(401, [(detail, {"pointer": "/data/"})], code="not_authenticated")
    if not authorized:
        violations["authorization"] += 1
        if given.startswith(b"Bearer "):
            return refusal(401)
        return key_rejected()
    revision = headers.get(b"revision")
    if revision is None:
        violations["revision"] += 1
        return errors(400, [("Missing revision header.", {"parameter": "revision"})])
    beta = ".pre" if scope["path"].startswith(BETA) else ""
    if revision.decode("latin-1") != REVISION + beta:
        violations["revision"] += 1
        return errors(410, [("Unsupported revision.", {"parameter": "revision"})])
    if scope["method"] in ("POST", "PATCH", "DELETE"):
        media = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if media not in (b"application/vnd.api+json", b"application/json"):
            violations["content_type"] += 1
            return errors(415, [("Unsupported media type.", {"pointer": "/data"})])
    return None
