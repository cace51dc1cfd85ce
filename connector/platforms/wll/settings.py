"""`[connections.settings]` of White Label Loyalty.

A region has its own addresses (vendor pages: API reference, admin access token):

    EU       https://api.rewards.wlloyalty.net/v1      https://auth.wlloyalty.net/oauth/token
    US       https://api.rewards.us.wlloyalty.net/v1   https://auth.us.wlloyalty.net/oauth/token
    staging  https://api.staging.rewards[.us].wlloyalty.net/v1, with the region's own tokens
    GCC      its tokens come from https://auth.me.wlloyalty.net/oauth/token
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field, SecretStr, field_validator, model_validator

from connector.config import Allowed, PlatformSettings, Secrets, Section, setting
from connector.platforms.settings import BaseUrl, Rate

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
    """Paths below `base_url`. The next page of a list is requested with `cursor`."""

    user: _UserPath = setting("/users/{subject}", "One user.")
    users: _Path = setting("/users?limit=200", "All users, page by page.")
    audiences: _Path = setting("/audiences", "The audiences.")
    members: _AudiencePath = setting(
        "/audiences/{id}/members?limit=200", "The members of an audience, page by page."
    )
    events: _Path = setting("/events", "Where events are posted.")
    rewards: _Path = setting("/rewards", "The public list of rewards.")
    tiers: _Path = setting("/tiers", "The public list of tiers.")


class Settings(PlatformSettings):
    """The settings, frozen."""

    base_url: BaseUrl = setting(
        "https://api.rewards.wlloyalty.net/v1", "Address of WLL's API in your region."
    )
    auth_url: BaseUrl = setting(
        "https://auth.wlloyalty.net/oauth/token", "Address for admin tokens in your region."
    )
    api_key: SecretStr = setting("", "The tenant's API key.", needed=True)
    client_id: str = setting(
        "", "The id of the client that WLL's support created for you.", needed=True
    )
    client_secret: SecretStr = setting("", "That client's secret.", needed=True)
    webhook_secret: Secrets = setting(
        (), "The last part of the webhook's address; a list while it is being changed."
    )
    points_event_type: str = setting(
        "", "Private event type whose reactor adjusts points; without it points cannot be adjusted."
    )
    points_event_secret: SecretStr = setting("", "That event type's own secret.")
    join_event: str = setting("", "Type of the event that is raised when a user joins an audience.")
    leave_event: str = setting("", "Type of the event that is raised when a user leaves one.")
    placeholders: tuple[str, ...] = setting(
        ("REDACTED", "UNKNOWN", "example@example.com"),
        "Addresses and names that mean none: a user with such an address is not sent to Klaviyo.",
    )
    rate_per_second: Rate = setting(
        80, "Requests per second, over all connections with this key; WLL allows 100."
    )
    paths: Paths = setting(Paths(), "Paths below base_url.")

    @model_validator(mode="after")
    def _require_event_secret(self) -> Settings:
        if self.points_event_type and not self.points_event_secret.get_secret_value():
            raise ValueError("points_event_secret beside points_event_type")
        return self

    @field_validator("placeholders")
    @classmethod
    def _casefold(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(word.strip().casefold() for word in words)
