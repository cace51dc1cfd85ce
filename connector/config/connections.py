"""The keys of a `[[connections]]` entry: a platform, a Klaviyo account, what is synced."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, SecretStr, ValidationInfo, field_validator

from connector.config.values import (
    Allowed,
    Duration,
    DurationOrOff,
    DurationRange,
    Interval,
    Secrets,
    Section,
    Url,
    setting,
)

Module = Literal["events", "profiles", "audiences", "segments", "actions"]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]


class PlatformSettings(Section):
    """Settings that every platform has in `[connections.settings]`. Platforms subclass it."""

    poll_every: Interval = setting("5m", "How often a platform that can be polled is polled.")
    max_concurrency: Positive = setting(8, "Maximum number of concurrent requests to the platform.")


class Klaviyo(Section):
    """`[connections.klaviyo]`: the account and the share of its limits to use."""

    base_url: Url = setting(
        "https://a.klaviyo.com", "Base URL of Klaviyo's API.", env="KLAVIYO_BASE_URL"
    )
    auth: Literal["private-key", "oauth"] = setting(
        "private-key", "Authentication: a private key of the account, or an installed app."
    )
    private_key: SecretStr = setting(
        "", "The account's private key. Not used with OAuth.", env="KLAVIYO_PRIVATE_KEY"
    )
    revision: Annotated[
        str,
        Field(pattern=r"^\d{4}-\d{2}-\d{2}(\.[a-z0-9]+)?$"),
        Allowed('a revision date such as "2026-10-15"'),
    ] = setting("2026-10-15", "The API revision to send with every request.")
    rate_share: Share = setting(
        0.0,
        "Share of Klaviyo's rate limits to use. 0 means 0.9 with OAuth, where the app has its own "
        "quota, and 0.6 with a private key, where the whole account shares one quota.",
    )
    live_reserve: Share = setting(0.3, "Part of that share that backfills may not use.")
    flow_guard: Literal["ask", "warn", "off"] = setting(
        "ask",
        "Before a backfill, a list's first sync or a mass unset that could start live flows: wait "
        "for approval (ask), log a warning (warn) or do nothing (off). Without the scope "
        "flows:read it warns.",
    )
    authorize_url: Url = setting(
        "https://www.klaviyo.com/oauth/authorize", "OAuth: the authorization page."
    )
    token_url: Url = setting("https://a.klaviyo.com/oauth/token", "OAuth: the token endpoint.")
    revoke_url: Url = setting(
        "https://a.klaviyo.com/oauth/revoke", "OAuth: the revocation endpoint."
    )
    install_probe: DurationOrOff = setting(
        "off",
        "OAuth: how often Klaviyo's Applications API (beta) is asked whether the app is still "
        "installed. off: a removal is noticed when the token is refreshed, within about an hour.",
    )

    @property
    def effective_rate_share(self) -> float:
        """The share in effect, more than 0 and at most 1."""
        return self.rate_share or (0.9 if self.auth == "oauth" else 0.6)


class Audience(Section):
    """`[[connections.audiences]]`: a loyalty audience that is synced to a Klaviyo list."""

    audience: Text = Field(description="The audience's id or exact name at the platform.")
    list: Text = Field(
        description="The list's id or exact name at Klaviyo; if two lists have the name, the id. A "
        "list belongs to one connection; several of its audiences may fill it."
    )
    create_list: bool = setting(True, "Create the list if Klaviyo has none with this name.")
    every: Interval = setting("15m", "How often the audience is read in full from the platform.")
    foreign_members: Literal["keep", "remove"] = setting(
        "keep", "What to do with people on the list that the connector did not add."
    )
    on_manual_removal: Literal["report", "re-add"] = setting(
        "report", "What to do when a member was removed from the list at Klaviyo."
    )
    max_leave_share: Share = setting(
        0.3,
        "A sync that would remove more than this share and more than the floor waits for approval.",
    )
    max_leave_floor: Count = setting(
        50, "The floor: this number of people may be removed without approval."
    )


class Join(Section):
    """One action for a person who joins a segment."""

    action: Literal["push", "increase", "decrease"] = Field(description="The action.")
    message: str = setting("", "Push: the text. Required.")
    url: str = setting("", "Push: the URL that it opens.")
    amount: Count = setting(0, "Increase, decrease: the number of points. Required.")
    reason: str = setting("", "Increase, decrease: the reason shown to the person.")


class Segment(Section):
    """`[[connections.segments]]`: a Klaviyo segment that is synced to the platform."""

    segment: Text = Field(description="The segment's id or exact name at Klaviyo.")
    target: Text = Field(description="The tag, campaign or segment key at the platform.")
    every: Annotated[float, DurationRange(minimum="1s", maximum="15m")] = setting(
        "10m", "How often the segment is read in full from Klaviyo."
    )
    on_join: tuple[Join, ...] = setting((), "Actions to run once per person and join.")
    on_join_existing: bool = setting(
        False, "Run them also for the members that the first complete scan finds."
    )
    max_leave_share: Share = setting(
        0.3,
        "A scan that would remove more than this share and more than the floor waits for approval.",
    )
    max_leave_floor: Count = setting(
        50, "The floor: this number of people may be removed without approval."
    )


class Tier(Section):
    """`[[connections.tiers]]`, for a platform whose API has no tiers."""

    name: Text = Field(description="The tier's name.")
    points: Count = Field(description="Points required to be in the tier.")


class Reward(Section):
    """`[[connections.rewards]]`, for a platform whose API has no rewards."""

    name: Text = Field(description="The reward's name.")
    cost: Count = Field(description="Its cost in points.")


class Actions(Section):
    """`[connections.actions]`: what Klaviyo flows may do at the platform."""

    secret: Secrets = setting(
        (), "The value of a flow's api-key header. Required if the table is present."
    )
    max_amount: Positive = setting(10000, "A single adjustment above this is rejected.")
    daily_per_person: Positive = setting(
        20, "Adjustments per person in 24 hours. More are held for approval."
    )
    daily_total: Count = setting(
        0, "Points in 24 hours over all people. More are held for approval. 0: no cap."
    )
    dedupe_window: Duration = setting(
        "25h",
        "How long a call without a key counts as the same call. Klaviyo repeats a call for 24 h.",
    )
    look_ups: tuple[Duration, ...] = setting(
        ("0s", "60s", "10m"), "When an ambiguous action is looked up at the platform."
    )
    retry_statuses: tuple[Annotated[int, Field(ge=400, le=599)], ...] = setting(
        (423, 429, 503), "HTTP statuses of the platform that mean: not applied, retry."
    )
    unknown_person_grace: Duration = setting(
        "15m",
        "How long an action is retried whose person the platform does not know yet (404). After "
        "that it is refused.",
    )


class Connection(Section):
    """One `[[connections]]` entry.

    `settings` is an instance of the platform's settings model, or a plain dict if the configuration
    was loaded without models. `mapping` is absolute once loaded from a file.
    """

    name: Annotated[
        str, Field(pattern=r"^[a-z0-9-]+$"), Allowed("a name of a-z, 0-9 and -, unique in the file")
    ] = Field(description="Unique; appears in URLs and metrics.")
    source: Text = Field(
        description="The platform: jericommerce, yotpo, wll, http, an installed platform, or "
        "package.module:NAME."
    )
    enabled: bool = setting(True, "Whether the connection runs.")
    mode: Literal["live", "shadow"] = setting(
        "live", "shadow receives, reads, renders and settles records, but sends nothing."
    )
    mapping: Path = setting(
        "mappings/{source}.toml",
        "The mapping file. A connection made at run time uses the shipped one where there is none.",
    )
    modules: tuple[Module, ...] = setting(
        ("events", "profiles", "audiences", "segments", "actions"),
        "What is synced. A module that the platform does not offer is shown as not offered; one "
        "without entries is idle.",
    )
    email_change: Literal["new", "move"] = setting(
        "new",
        "When a person's address changes: new unsets the old profile's fields, removes it from the "
        "lists and writes a profile with the new address; move changes the profile's address.",
    )
    on_leave: Literal["keep", "unset"] = setting(
        "keep", "What to do with the fields of a person that the platform no longer has."
    )
    settings: Any = Field(
        default_factory=dict, description="Settings of the platform, see below.", repr=False
    )
    klaviyo: Klaviyo = Field(default_factory=Klaviyo, description="The Klaviyo account.")
    audiences: tuple[Audience, ...] = setting(
        (), "Loyalty audiences that are synced to Klaviyo lists."
    )
    segments: tuple[Segment, ...] = setting((), "Klaviyo segments that are synced to the platform.")
    tiers: tuple[Tier, ...] = setting((), "Tiers, if the platform's API has none.")
    rewards: tuple[Reward, ...] = setting((), "Rewards, if the platform's API has none.")
    actions: Actions | None = setting(
        None, "What Klaviyo flows may do. Without this table their routes answer 401."
    )

    _mapping_changes: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def mapping_changes(self) -> dict[str, Any]:
        """Tables that lie above the mapping file: its entries switched on or off at run time."""
        return self._mapping_changes

    @field_validator("mapping")
    @classmethod
    def _expand_source(cls, path: Path, info: ValidationInfo) -> Path:
        # package.module:NAME cannot be a file name: only NAME is used.
        source = str(info.data.get("source", "")).rpartition(":")[2].lower()
        return Path(str(path).replace("{source}", source))


__all__ = [
    "Actions",
    "Audience",
    "Connection",
    "Join",
    "Klaviyo",
    "Module",
    "PlatformSettings",
    "Reward",
    "Segment",
    "Tier",
]
