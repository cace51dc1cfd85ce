"""The configuration: `load` reads connector.toml into a frozen `Config`."""

from __future__ import annotations

from connector.config.connections import (
    Actions,
    Audience,
    Connection,
    Join,
    Klaviyo,
    Module,
    PlatformSettings,
    Reward,
    Segment,
    Tier,
)
from connector.config.expand import escaped
from connector.config.load import load, with_overrides
from connector.config.models import (
    Config,
    Console,
    Delivery,
    KlaviyoApp,
    Log,
    Notify,
    Retention,
    Security,
    Server,
    Store,
)
from connector.config.overrides import Override, dotted_key, is_secret_key, is_settable, parse_key
from connector.config.reference import reference
from connector.config.salvage import salvage
from connector.config.show import show
from connector.config.values import (
    Allowed,
    Duration,
    DurationOrNever,
    DurationRange,
    Interval,
    PositiveDuration,
    Secrets,
    Section,
    Size,
    Url,
    setting,
)

__all__ = [
    "Actions",
    "Allowed",
    "Audience",
    "Config",
    "Connection",
    "Console",
    "Delivery",
    "Duration",
    "DurationOrNever",
    "DurationRange",
    "Interval",
    "Join",
    "Klaviyo",
    "KlaviyoApp",
    "Log",
    "Module",
    "Notify",
    "Override",
    "PlatformSettings",
    "PositiveDuration",
    "Retention",
    "Reward",
    "Secrets",
    "Section",
    "Security",
    "Segment",
    "Server",
    "Size",
    "Store",
    "Tier",
    "Url",
    "dotted_key",
    "escaped",
    "is_secret_key",
    "is_settable",
    "load",
    "parse_key",
    "reference",
    "salvage",
    "setting",
    "show",
    "with_overrides",
]
