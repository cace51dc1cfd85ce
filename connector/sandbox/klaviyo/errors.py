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
    """404: no resource of this kind has this id."""
    return not_found(f"A {kind} with id {id} does not exist.", pointer)


def not_found(detail: str, pointer: str = "/data/") -> Refused:
    """404 with this text."""
    return Refused(errors(404, [(detail, {"pointer": pointer})]))


class ApiJSON(JSON):
    """JSON:API."""

    media_type = "application/vnd.api+json"


def title(status: int) -> str:
    """The title of an error with this status."""
    return _TITLES.get(status, _OTHER)[1]


def errors(
    status: int,
    found: Sequence[Problem],
    *,
    code: str | None = None,
    meta: dict[str, str] | None = None,
) -> Response:
    """An error response from (detail, source) pairs; each has the same `meta`."""
    default_code, title_text = _TITLES.get(status, _OTHER)
    return ApiJSON(
        {
            "errors": [
                {
                    "id": str(uuid.uuid4()),
                    "status": status,
                    "code": code or default_code,
                    "title": title_text,
                    "detail": detail,
                    "source": source,
                    "links": {},
                    "meta": meta or {},
                }
                for detail, source in found
            ]
        },
        status,
    )
