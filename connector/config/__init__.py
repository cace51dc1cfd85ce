"""The configuration: `load` reads connector.toml into a frozen `Config`, every fault at once."""

from __future__ import annotations

from connector.config.checks import is_loopback
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
from connector.config.load import load
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
from connector.config.reference import reference
from connector.config.show import show
from connector.config.values import (
    Duration,
    DurationOrNever,
    Interval,
    PositiveDuration,
    Secrets,
    Section,
    Size,
    Span,
    Url,
    Words,
    setting,
)

__all__ = [
    "Actions",
    "Audience",
    "Config",
    "Connection",
    "Console",
    "Delivery",
    "Duration",
    "DurationOrNever",
    "Interval",
    "Join",
    "Klaviyo",
    "KlaviyoApp",
    "Log",
    "Module",
    "Notify",
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
    "Span",
    "Store",
    "Tier",
    "Url",
    "Words",
    "escaped",
    "is_loopback",
    "load",
    "reference",
    "setting",
    "show",
]
