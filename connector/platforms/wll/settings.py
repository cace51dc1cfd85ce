"""What `[connections.settings]` holds for White Label Loyalty.

Regions are addresses (vendor pages: API reference, admin access token):

    EU       https://api.rewards.wlloyalty.net/v1      https://auth.wlloyalty.net/oauth/token
    US       https://api.rewards.us.wlloyalty.net/v1   https://auth.us.wlloyalty.net/oauth/token
    staging  https://api.staging.rewards[.us].wlloyalty.net/v1, with the region's own tokens
    GCC      its tokens come from https://auth.me.wlloyalty.net/oauth/token
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field, SecretStr, field_validator, model_validator

from connector.config import Allowed, PlatformSettings, Secrets, Section, Url, setting

_Path: TypeAlias = Annotated[
    str, Field(pattern=r"^/[^\s{}]*$"), Allowed("a path below base_url that begins with /")
]
_UserPath: TypeAlias = Annotated[
    str,
    Field(pattern=r"^/[^\s{}]*\{subject\}[^\s{}]*$"),
    Allowed("a path below base_url that begins with / and holds {subject}"),
]
_AudiencePath: TypeAlias = Annotated[
    str,
    Field(pattern=r"^/[^\s{}]*\{id\}[^\s{}]*$"),
    Allowed("a path below base_url that begins with / and holds {id}"),
]


class Paths(Section):
    """Where things stand below `base_url`; a list is asked for its next page with `cursor`."""

    user: _UserPath = setting("/users/{subject}", "One user.")
    users: _Path = setting("/users?limit=200", "All users, page by page.")
    audiences: _Path = setting("/audiences", "The audiences.")
    members: _AudiencePath = setting(
        "/audiences/{id}/members?limit=200", "The members of an audience, page by page."
    )
    events: _Path = setting("/events", "Where events are reported.")
    rewards: _Path = setting("/rewards", "The rewards that everybody may see.")
    tiers: _Path = setting("/tiers", "The tiers that everybody may see.")


class Settings(PlatformSettings):
    """The settings, frozen."""

    base_url: Url = setting(
        "https://api.rewards.wlloyalty.net/v1", "Where WLL's API answers in your region."
    )
    auth_url: Url = setting(
        "https://auth.wlloyalty.net/oauth/token", "Where your region's admin tokens come from."
    )
    api_key: SecretStr = setting("", "The tenant's API key.", needed=True)
    client_id: str = setting("", "The client that WLL's support made for you.", needed=True)
    client_secret: SecretStr = setting("", "That client's secret.", needed=True)
    webhook_secret: Secrets = setting(
        (), "The last part of the webhook's address; a list while it is being changed."
    )
    points_event_type: str = setting(
        "", "Private event type whose reactor adjusts points; without it nothing can."
    )
    points_event_secret: SecretStr = setting("", "That event type's own secret.")
    join_event: str = setting("", "Type of the event raised when somebody joins an audience.")
    leave_event: str = setting("", "Type of the event raised when somebody leaves one.")
    placeholders: tuple[str, ...] = setting(
        ("REDACTED", "UNKNOWN", "example@example.com"),
        "Addresses and names that stand for none: whoever has such an address is not told.",
    )
    rate_per_second: Annotated[float, Field(gt=0)] = setting(
        80, "Requests per second, over all connections with this key; WLL allows 100."
    )
    paths: Paths = setting(Paths(), "Where things stand below base_url.")

    @field_validator("base_url", "auth_url")
    @classmethod
    def _strip_slash(cls, url: str) -> str:
        return url.rstrip("/")

    @model_validator(mode="after")
    def _require_event_secret(self) -> Settings:
        if self.points_event_type and not self.points_event_secret.get_secret_value():
            raise ValueError("points_event_secret beside points_event_type")
        return self

    @field_validator("placeholders")
    @classmethod
    def _casefold(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(word.strip().casefold() for word in words)
