"""The closed lists of keywords, attributes and fields that a mapping file may use."""

from __future__ import annotations

KEYWORDS: dict[str, tuple[str, ...]] = {
    "": ("extends", "version", "source", "timezone", "identity", "events", "profile"),
    "identity": ("email", "external_id", "phone_number", "default_region"),
    "events": ("prefix", "unknown", "attach_profile", "metrics"),
    "events.metrics": ("aliases", "name", "enabled", "refresh", "value", "add"),
    "profile": ("attributes", "fields"),
    "profile.attributes": ("from", "enabled"),
    "profile.fields": ("from", "type", "missing", "trusted", "from_event", "enabled"),
    "function": ("fn", "of"),
}
"""Every keyword of the language by its table. docs/mappings.md lists the same."""

ATTRIBUTES = (
    "first_name",
    "last_name",
    "locale",
    "location.address1",
    "location.address2",
    "location.city",
    "location.country",
    "location.latitude",
    "location.longitude",
    "location.region",
    "location.zip",
    "location.timezone",
    "location.ip",
)

VIEW_PATHS = (
    "email",
    "phone",
    "first_name",
    "last_name",
    "balance",
    "birthdate",
    "tier.name",
    "tier.balance",
    "tier.entered_at",
    "tier.expires_at",
    "next_tier.name",
    "next_tier.points_needed",
    "next_reward.name",
    "next_reward.points_needed",
    "pass_url",
    "extras",
    "event.name",
    "event.time",
    "event.properties",
    "raw",
)
"""The documented fields of a view."""

OPEN_PATHS = ("extras", "event.properties", "raw")
"""Fields below which every path is allowed: their content is the platform's."""

METRIC_NAME_LIMIT = 128
"""Klaviyo accepts shorter names only (its API reference, create_event)."""
