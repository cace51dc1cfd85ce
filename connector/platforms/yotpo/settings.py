"""`[connections.settings]` of Yotpo Loyalty & Referrals.

Names and limits that no public page of Yotpo states are settings here; docs/unverified.md says how
to find them out on a live account.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from connector.config import Allowed, PlatformSettings, PositiveDuration, Secrets, Url, setting
from connector.platforms.settings import BaseUrl, Rate

TOKEN_IN_QUERY = "access_token={access_token}"


class Settings(PlatformSettings):
    """The settings, frozen. `adjust_url` holds the address with app_key put in."""

    base_url: BaseUrl = setting("https://loyalty.yotpo.com", "Address of the loyalty API (v2).")
    guid: str = setting("", "The loyalty account's GUID.", needed=True)
    api_key: SecretStr = setting("", "The loyalty API key.", needed=True)
    webhook_secret: Secrets = setting(
        (),
        "The last part of the webhook's address: letters and digits. A list while it is changed.",
    )
    webhook_secret_header: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9-]*$"), Allowed("the name of a header")
    ] = setting("", 'Also accept the secret in this header (Yotpo\'s "Webhook Authentication").')
    rate_per_second: Rate = setting(5, "Requests per second, over all connections with this key.")
    repeat_window: PositiveDuration = setting(
        "1h", "A body without an id, repeated within this time, is the same event."
    )
    reference_format: Annotated[
        str,
        Field(pattern=r"^([^{}]|\{title\}|\{ref\})*$", min_length=1, max_length=120),
        Allowed("text with {title} and {ref}"),
    ] = setting(
        "{ref} · {title}",
        "Title of an adjustment in the customer's history. Without {ref} none can be looked up; "
        "where it does not come first, one that is not found waits for a person.",
    )
    api: Literal["classic", "app"] = setting(
        "classic", "Which API points are adjusted with: the loyalty API, or a Yotpo app's."
    )
    app_key: str = setting("", "app only: the store's app key, {app_key} in adjust_url.")
    adjust_url: str = setting(
        "",
        "app only: the full address of the adjustment. The token is sent as a bearer token, or in "
        f"the address if that ends in {TOKEN_IN_QUERY}.",
    )
    rate_per_minute: Annotated[int, Field(ge=1)] = setting(
        100, "app only: adjustments per minute and app key."
    )
    access_token: SecretStr = setting(
        "", "app only: a token that does not expire; or set the next four."
    )
    client_id: str = setting("", "app only: the app's id, to get tokens with.")
    client_secret: SecretStr = setting("", "app only: the app's secret.")
    refresh_token: SecretStr = setting("", "app only: what a new access token is requested with.")
    token_url: Url = setting(
        "https://developers.yotpo.com/v2/oauth2/token", "app only: where tokens are requested."
    )

    @field_validator("webhook_secret_header")
    @classmethod
    def _lowercase(cls, name: str) -> str:
        return name.lower()

    @field_validator("adjust_url")
    @classmethod
    def _expand_app_key(cls, url: str, info: ValidationInfo) -> str:
        if info.data.get("api") != "app":
            return url
        expanded = url.replace("{app_key}", str(info.data.get("app_key", "")))
        if not expanded.startswith(("https://", "http://")) or not urlsplit(expanded).path:
            raise ValueError('the full address of the adjustment, because api is "app"')
        return expanded

    @field_validator("client_id")
    @classmethod
    def _require_token(cls, id: str, info: ValidationInfo) -> str:
        token = info.data.get("access_token")
        if info.data.get("api") == "app" and not id and not (token and token.get_secret_value()):
            raise ValueError('access_token or the app\'s client_id, because api is "app"')
        return id

    @field_validator("client_secret", "refresh_token")
    @classmethod
    def _require_client(cls, secret: SecretStr, info: ValidationInfo) -> Any:
        app = info.data.get("api") == "app" and info.data.get("client_id")
        if app and not secret.get_secret_value():
            raise ValueError("needed beside client_id")
        return secret
