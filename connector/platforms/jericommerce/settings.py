"""`[connections.settings]` of JeriCommerce.

Names and limits that no public page of JeriCommerce states are settings here; docs/unverified.md
says how to find them out on a live account.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from connector.config import Allowed, DurationOrNever, PlatformSettings, Secrets, setting
from connector.platforms.settings import BaseUrl, Rate


class Settings(PlatformSettings):
    """The settings, frozen. `push_url` holds the full address, with base_url put in."""

    base_url: BaseUrl = setting("https://api.jericommerce.com", "Address of JeriCommerce's API.")
    program: Annotated[
        str,
        Field(min_length=1, pattern=r"^[A-Za-z0-9_-]+$"),
        Allowed("the program's slug or UUID"),
    ] = Field(description="The program: its slug or UUID.")
    api_key: SecretStr = setting("", "The program's API key.", needed=True)
    webhook_secret: Secrets = setting(
        (), "Secret of the event subscription; a list while it is being changed."
    )
    webhook_encoding: Literal["auto", "hex", "base64"] = setting(
        "auto", "Encoding of signatures; auto accepts both."
    )
    link_base_url: BaseUrl = setting("https://jeri.link", "Beginning of wallet pass links.")
    push_url: Annotated[
        str,
        Field(pattern=r"^(https?://|\{base_url\})[^\s]*$"),
        Allowed("an address; {base_url} is replaced by base_url"),
    ] = setting("{base_url}/v1/push", "Where a push notification is posted.")
    push_auth: Literal["bearer", "api-key"] = setting(
        "bearer", "How a push carries the API key: as Authorization: Bearer, or as api-key."
    )
    segment_feature: Annotated[str, Field(min_length=1)] = setting(
        "segments", "The feature that segment membership is sent as."
    )
    segment_batch: Annotated[int, Field(ge=1, le=250)] = setting(100, "Memberships in one call.")
    pass_token_expires_in: str = setting(
        "", "Life of a pass link, in JeriCommerce's notation; empty is its default."
    )
    pass_url_refresh: DurationOrNever = setting(
        "never", "Age at which a pass link is fetched again, besides after pass events."
    )
    rate_per_second: Rate = setting(5, "Requests per second, over all connections with this key.")

    @field_validator("push_url")
    @classmethod
    def _expand_base_url(cls, url: str, info: ValidationInfo) -> str:
        return url.replace("{base_url}", str(info.data.get("base_url", "")))
