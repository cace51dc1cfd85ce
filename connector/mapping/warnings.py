"""What is allowed in a mapping but hardly intended; printed by `connector mappings check`."""

from __future__ import annotations

from connector.mapping.render import CompiledMapping

TRACKED = frozenset(
    (
        "id",
        "email",
        "phone_number",
        "external_id",
        "anonymous_id",
        "first_name",
        "last_name",
        "full_name",
        "name",
        "organization",
        "company",
        "title",
        "image",
        "locale",
        "source",
        "created",
        "updated",
        "last_event_date",
        "location",
        "address",
        "address1",
        "address2",
        "city",
        "country",
        "region",
        "state",
        "zip",
        "zip_code",
        "postal_code",
        "timezone",
        "time_zone",
        "latitude",
        "longitude",
        "ip",
        "consent",
        "consent_timestamp",
        "accepts_marketing",
        "subscriptions",
        "historic_clv",
        "predicted_clv",
        "total_clv",
        "historic_number_of_orders",
        "predicted_number_of_orders",
        "average_days_between_orders",
        "average_order_value",
        "churn_probability",
        "expected_date_of_next_order",
        "predicted_gender",
    )
)
"""Properties that Klaviyo keeps of a profile itself (its API reference, get_profile)."""

_AS_ATTRIBUTE = frozenset(("first_name", "last_name", "locale"))


def warnings(mapping: CompiledMapping) -> list[str]:
    """One line for each custom property that Klaviyo tracks itself, or whose name begins with `$`,
    which is reserved to Klaviyo."""
    found: list[str] = []
    for name in mapping.declared:
        where = f"profile.fields.{name}"
        plain = name.strip().casefold().replace(" ", "_").replace("-", "_")
        if name.startswith("$"):
            found.append(f"{where}: names with $ are reserved to Klaviyo; choose another")
        elif plain in _AS_ATTRIBUTE:
            found.append(
                f"{where}: Klaviyo tracks it already, and a custom property of this name would be "
                f"a second one; use [profile.attributes.{plain}]"
            )
        elif plain in TRACKED:
            found.append(f"{where}: Klaviyo tracks it already; leave it out or rename it")
    for key, name in mapping.added:
        if name.startswith("$"):
            found.append(
                f'events.metrics."{key}".add.{name}: names with $ are reserved to Klaviyo; '
                "choose another"
            )
    return found
