"""What an OAuth authorization server grants (RFC 6749), and whether it still holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connector.domain.lanes import Millis

KLAVIYO_OAUTH = "klaviyo_oauth"
"""Name of the stored secret that holds a connection's tokens for Klaviyo."""
UNUSED_LIFETIME = 90 * 86_400_000
"""Milliseconds after which Klaviyo revokes a refresh token that is not used."""
WARN_BEFORE = 14 * 86_400_000
KLAVIYO_SCOPES: Mapping[str, str] = {
    "accounts:read": "the account cannot be recognised, so nothing can be connected",
    "profiles:read": "people cannot be found at Klaviyo: pushes by profile id, address changes",
    "profiles:write": "no profile field is written",
    "events:write": "no event is sent",
    "events:read": "recorded events cannot be compared",
    "lists:read": "audiences cannot be kept as lists",
    "lists:write": "audiences cannot be kept as lists",
    "segments:read": "segments cannot be sent to the platform",
    "metrics:read": "it cannot be checked who else sends a metric of the same name",
    "flows:read": "the flow guard cannot name the flows that a sync could start, and only warns",
    "data-privacy:write": "a person who is forgotten cannot be deleted at Klaviyo",
}
"""Scope → what does not work without it. The app at Klaviyo needs exactly these."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer of a token endpoint. `lifetime`: seconds, infinite where none is stated."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    lifetime: float
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GrantInfo:
    """What is known of stored tokens without decrypting them. Times in ms since 1970; `ended_at` is
    when the authorization server refused the refresh token for good, `origin` a digest of the
    configured token that it replaces."""

    valid_until: Millis = Millis(0)
    refreshed_at: Millis = Millis(0)
    connected_at: Millis = Millis(0)
    ended_at: Millis | None = None
    scopes: tuple[str, ...] = ()
    account: str = ""
    account_name: str = ""
    origin: str = ""

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> GrantInfo:
        """From its stored form; keys of another version are ignored."""
        known = {key: value for key, value in stored.items() if key in cls.__slots__}
        return cls(**{**known, "scopes": tuple(known.get("scopes", ()))})

    def dump(self) -> dict[str, Any]:
        """The stored form."""
        return {name: getattr(self, name) for name in type(self).__slots__}

    @property
    def expires_at(self) -> Millis:
        """When the authorization ends unless a token is refreshed before."""
        return Millis(self.refreshed_at + UNUSED_LIFETIME)

    def missing(self, required: Sequence[str]) -> list[str]:
        """The required scopes that were not granted; none where the server named no scopes."""
        return [scope for scope in required if self.scopes and scope not in self.scopes]
