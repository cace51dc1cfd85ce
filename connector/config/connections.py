"""The keys of one `[[connections]]` entry: a loyalty platform, a Klaviyo account, what flows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from connector.config.values import (
    Allowed,
    Duration,
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
    """What `[connections.settings]` holds for every platform. Platforms subclass it."""

    poll_every: Interval = setting("5m", "How often a platform that can be polled is read.")
    max_concurrency: Positive = setting(8, "Requests to the platform at the same time.")


class Klaviyo(Section):
    """`[connections.klaviyo]`: the account and the part of its limits that we use."""

    base_url: Url = setting(
        "https://a.klaviyo.com", "Where Klaviyo's API answers.", env="KLAVIYO_BASE_URL"
    )
    auth: Literal["private-key", "oauth"] = setting(
        "private-key", "How we prove who we are: a key of the account, or an installed app."
    )
    private_key: SecretStr = setting(
        "", "The account's private key; unused with OAuth.", env="KLAVIYO_PRIVATE_KEY"
    )
    revision: Annotated[
        str,
        Field(pattern=r"^\d{4}-\d{2}-\d{2}(\.[a-z0-9]+)?$"),
        Allowed('a revision date such as "2026-10-15"'),
    ] = setting("2026-10-15", "The API revision that every request names.")
    rate_share: Share = setting(
        0.0,
        "Part of Klaviyo's limits that we may use; 0 means 0.9 with OAuth, whose quota is our "
        "own, and 0.6 with a private key, whose quota the whole account shares.",
    )
    live_reserve: Share = setting(0.3, "Part of that share which no backfill may touch.")
    flow_guard: Literal["ask", "warn", "off"] = setting(
        "ask",
        "Before a backfill, a list's first sync or a mass unset on which live flows hang: wait "
        "for a person, say so, or go on. Without the scope flows:read it says so.",
    )
    authorize_url: Url = setting(
        "https://www.klaviyo.com/oauth/authorize", "OAuth: where a person agrees."
    )
    token_url: Url = setting("https://a.klaviyo.com/oauth/token", "OAuth: where tokens come from.")
    revoke_url: Url = setting(
        "https://a.klaviyo.com/oauth/revoke", "OAuth: where they are revoked."
    )

    @property
    def effective_rate_share(self) -> float:
        """The share in force, more than 0 and at most 1."""
        return self.rate_share or (0.9 if self.auth == "oauth" else 0.6)


class Audience(Section):
    """`[[connections.audiences]]`: a loyalty audience kept as a Klaviyo list."""

    audience: Text = Field(description="The platform's id or exact name of the audience.")
    list: Text = Field(
        description="Klaviyo's list id or exact name; where two share a name, the id. A list "
        "belongs to one connection, several audiences of which may fill it."
    )
    create_list: bool = setting(True, "Create the list when Klaviyo has none of that name.")
    every: Interval = setting("15m", "How often the platform's side is read in full.")
    foreign_members: Literal["keep", "remove"] = setting(
        "keep", "People on the list whom we did not put there."
    )
    on_manual_removal: Literal["report", "re-add"] = setting(
        "report", "When somebody took a member off the list at Klaviyo."
    )
    max_leave_share: Share = setting(
        0.3, "A sync that would remove more than this share, and more than the floor, waits."
    )
    max_leave_floor: Count = setting(50, "That floor: people whose removal needs no approval.")


class Join(Section):
    """One thing done for a person who joins a segment."""

    action: Literal["push", "increase", "decrease"] = Field(description="What is done.")
    message: str = setting("", "Push: the text, required.")
    url: str = setting("", "Push: the address that it opens.")
    amount: Count = setting(0, "Increase, decrease: how many points, required.")
    reason: str = setting("", "Increase, decrease: what the person reads beside it.")


class Segment(Section):
    """`[[connections.segments]]`: a Klaviyo segment told to the loyalty platform."""

    segment: Text = Field(description="Klaviyo's segment id or exact name.")
    target: Text = Field(description="The tag, campaign or segment key at the platform.")
    every: Annotated[float, DurationRange(minimum="1s", maximum="15m")] = setting(
        "10m", "How often the segment is read in full."
    )
    on_join: tuple[Join, ...] = setting((), "What is done once per person and join.")
    on_join_existing: bool = setting(
        False, "Also for the members that the first complete scan finds."
    )
    max_leave_share: Share = setting(
        0.3, "A scan that would remove more than this share, and more than the floor, waits."
    )
    max_leave_floor: Count = setting(50, "That floor: people whose removal needs no approval.")


class Tier(Section):
    """`[[connections.tiers]]`, for a platform that publishes none."""

    name: Text = Field(description="The tier's name.")
    points: Count = Field(description="Points from which a person is in it.")


class Reward(Section):
    """`[[connections.rewards]]`, for a platform that publishes none."""

    name: Text = Field(description="The reward's name.")
    cost: Count = Field(description="Points that it costs.")


class Actions(Section):
    """`[connections.actions]`: what Klaviyo flows may do at the platform."""

    secret: Secrets = setting(
        (), "What a flow's api-key header must carry; required in a written table."
    )
    max_amount: Positive = setting(10000, "A single adjustment above this is refused.")
    daily_per_person: Positive = setting(
        20, "Adjustments per person and day; more are held for approval."
    )
    daily_total: Count = setting(0, "Points per day over all people; 0 sets no cap.")
    dedupe_window: Duration = setting(
        "25h", "How long a call without a key counts as the same; Klaviyo repeats for 24 h."
    )
    look_ups: tuple[Duration, ...] = setting(
        ("0s", "60s", "10m"), "When an unknown outcome is looked up at the platform."
    )
    retry_statuses: tuple[Annotated[int, Field(ge=400, le=599)], ...] = setting(
        (423, 429, 503), "Answers that mean: not applied, try again."
    )


class Connection(Section):
    """One `[[connections]]` entry.

    `settings` is an instance of the platform's settings model, or a plain dict where the
    configuration was loaded without models. `mapping` is absolute once loaded from a file.
    """

    name: Annotated[
        str, Field(pattern=r"^[a-z0-9-]+$"), Allowed("a name of a-z, 0-9 and -, unique in the file")
    ] = Field(description="Unique; appears in addresses and metrics.")
    source: Text = Field(
        description="The platform: jericommerce, yotpo, wll, http, any that is installed, or "
        "package.module:NAME."
    )
    enabled: bool = setting(True, "Whether it runs.")
    mode: Literal["live", "shadow"] = setting(
        "live", "shadow takes in, reads, renders and settles, but sends nothing."
    )
    mapping: Path = setting("mappings/{source}.toml", "The mapping file.")
    modules: tuple[Module, ...] = setting(
        ("events", "profiles", "audiences", "segments", "actions"),
        "What flows; a module that the platform does not offer is shown as such, and one "
        "without entries is idle.",
    )
    email_change: Literal["new", "move"] = setting(
        "new",
        "new unsets the old profile's fields, leaves its lists and writes the new address; move "
        "changes the profile's address.",
    )
    on_leave: Literal["keep", "unset"] = setting(
        "keep", "The fields of a person whom the platform no longer knows."
    )
    settings: Any = Field(
        default_factory=dict, description="The platform's own settings, see below.", repr=False
    )
    klaviyo: Klaviyo = Field(default_factory=Klaviyo, description="The Klaviyo account.")
    audiences: tuple[Audience, ...] = setting((), "Loyalty audiences kept as Klaviyo lists.")
    segments: tuple[Segment, ...] = setting((), "Klaviyo segments told to the platform.")
    tiers: tuple[Tier, ...] = setting((), "Tiers, where the platform publishes none.")
    rewards: tuple[Reward, ...] = setting((), "Rewards, where the platform publishes none.")
    actions: Actions | None = setting(
        None, "What Klaviyo flows may do; without this table their routes answer 401."
    )

    @field_validator("mapping")
    @classmethod
    def _expand_source(cls, path: Path, info: ValidationInfo) -> Path:
        # package.module:NAME is no file name, so its last word stands for it.
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
