"""What the adapters' webhooks share: secrets that are compared in constant time, and fields that
are read or named in a Malformed."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal

import orjson
from pydantic import SecretStr

from connector.domain.errors import Malformed, Problem, Unauthorised
from connector.domain.lanes import Millis
from connector.runtime.clock import to_millis

Encoding = Literal["hex", "base64"]


def usable_secrets(secrets: Sequence[SecretStr]) -> list[bytes]:
    """The secrets that are not empty: an empty one would authorize a request without a secret."""
    texts = (secret.get_secret_value() for secret in secrets)
    return [text.encode() for text in texts if text.strip()]


def is_any_secret(given: str, secrets: Sequence[bytes]) -> bool:
    """Whether the text is one of the secrets. Takes as long whichever it is."""
    presented = given.encode(errors="replace")
    matches = [hmac.compare_digest(presented, secret) for secret in secrets]
    return any(matches)


def is_signed(
    given: str, body: bytes, keys: Sequence[bytes], encodings: Sequence[Encoding] = ("hex",)
) -> bool:
    """Whether the text is the HMAC-SHA256 of the body with one of the keys, in one of these
    encodings; hexadecimal digits in either case."""
    matches = []
    for digest in (hmac.digest(key, body, sha256) for key in keys):
        if "hex" in encodings:
            matches.append(is_any_secret(given.lower(), [digest.hex().encode()]))
        if "base64" in encodings:
            matches.append(is_any_secret(given, [base64.b64encode(digest)]))
    return any(matches)


def header_text(value: str) -> str:
    """A header's value for people. Servers decode it as Latin-1; most senders write UTF-8."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def unauthorised(detail: str) -> Unauthorised:
    return Unauthorised(Problem.WEBHOOK_UNSIGNED, detail)


def malformed(detail: str) -> Malformed:
    return Malformed(Problem.WEBHOOK_MALFORMED, detail)


def parse_body(body: bytes) -> Any:
    """The JSON of a request's body. Raises Malformed."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise malformed(f"the body is not JSON: {error}") from error


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a request's body. Raises Malformed."""
    payload = parse_body(body)
    if not isinstance(payload, dict):
        raise malformed("the body must be a JSON object")
    return payload


def text_field(payload: Mapping[str, Any], key: str, *, longest: int | None = None) -> str | None:
    """The trimmed text of a field; None if it is missing, null or empty. Raises Malformed."""
    value = payload.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value or (longest and len(value.strip()) > longest):
        size = f" of at most {longest} characters" if longest else ""
        raise malformed(f"`{key}` must be a text{size}")
    return value.strip() or None


def time_field(payload: Mapping[str, Any], key: str) -> Millis:
    """The ISO 8601 time of a field; without a zone it is UTC. Raises Malformed."""
    try:
        return to_millis(datetime.fromisoformat(payload[key]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise malformed(f"`{key}` must be the time of the event, ISO 8601") from error
