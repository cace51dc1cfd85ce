"""Klaviyo's error responses in JSON:API. The format was recorded live; some texts are guesses."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from starlette.responses import Response

from connector.sandbox.gate import JSON

_TITLES = {
    400: ("invalid", "Invalid input."),
    401: ("authentication_failed", "Incorrect authentication credentials."),
    403: ("permission_denied", "You do not have permission to perform this action."),
    404: ("not_found", "Not found."),
    405: ("method_not_allowed", "Method not allowed."),
    409: ("conflict", "Conflict."),
    410: ("gone", "The revision is no longer supported."),
    413: ("request_too_large", "Payload too large."),
    415: ("unsupported_media_type", "Unsupported media type."),
    429: ("throttled", "Request was throttled."),
    503: ("service_unavailable", "Service unavailable."),
}
_ATTRIBUTES = {"pointer": "/data/attributes"}
_OTHER = ("error", "A server error occurred.")
_APPLICATION = frozenset((400, 409, 413, 429))
"""Statuses that are not the framework's own. 413 is a guess."""
_RATE_LIMITS = "https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling#rate-limits"

Problem = tuple[str, dict[str, str]]


class Refused(Exception):
    """A request is rejected with this response."""

    def __init__(self, response: Response) -> None:
        self.response = response
        super().__init__()


def duplicate(id: str) -> Refused:
    """409 as recorded live: an identifier belongs to the profile with this id."""
    found = ("A profile already exists with one of these identifiers.", _ATTRIBUTES)
    meta = {"duplicate_profile_id": id}
    return Refused(errors(409, [found], code="duplicate_profile", meta=meta))


def unknown(kind: str, id: str, pointer: str = "/data/") -> Refused:
    """404: no resource of this kind has this id. Lists and segments are recorded with back-ticks
    around the id."""
    quoted = f"`{id}`" if kind in ("list", "segment") else id
    return not_found(f"A {kind} with id {quoted} does not exist.", pointer)


def not_found(detail: str, pointer: str = "/data/") -> Refused:
    """404 with this text."""
    return Refused(errors(404, [(detail, {"pointer": pointer})]))


class ApiJSON(JSON):
    """JSON:API."""

    media_type = "application/vnd.api+json"


def refusal(status: int, pointers: Sequence[str] = ()) -> Response:
    """An error response without a text of its own."""
    default = "/data" if status in _APPLICATION else "/data/"
    detail = _TITLES.get(status, _OTHER)[1]
    if status == 429:
        return throttled(1)
    return errors(status, [(detail, {"pointer": each}) for each in pointers or (default,)])


def throttled(seconds: int) -> Response:
    """429, with `Retry-After` in seconds."""
    unit = "second" if seconds == 1 else "seconds"
    detail = f"Request was throttled. Expected available in {seconds} {unit}."
    response = errors(429, [(detail, {"pointer": "/data"})])
    response.headers["retry-after"] = str(seconds)
    return response


def errors(
    status: int,
    found: Sequence[Problem],
    *,
    code: str | None = None,
    meta: dict[str, str] | None = None,
) -> Response:
    """An error response from (detail, source) pairs; each has the same `meta`. Only refusals of the
    application, and 429, have `links` and `meta`."""
    default_code, title_text = _TITLES.get(status, _OTHER)
    links = {"type": _RATE_LIMITS} if status == 429 else {}
    more = {"links": links, "meta": meta or {}} if status in _APPLICATION else {}
    response = ApiJSON(
        {
            "errors": [
                {
                    "id": str(uuid.uuid4()),
                    "status": status,
                    "code": code or default_code,
                    "title": title_text,
                    "detail": detail,
                    "source": source,
                    **more,
                }
                for detail, source in found
            ]
        },
        status,
    )
    if status == 429:
        # Most recorded ones have none.
        del response.headers["content-type"]
    return response
