"""The call that Yotpo's guides let a Klaviyo flow send: a points adjustment of the classic API."""

from __future__ import annotations

from connector.domain.actions import Action
from connector.platforms.yotpo.settings import Settings
from connector.ports import DirectCall


def direct(settings: Settings, action: Action) -> DirectCall:
    """connector.ports.Platform.direct. ValueError for a push."""
    if action.name == "push":
        raise ValueError("Yotpo sends no push notifications")
    earned = {} if action.earned is None else {"apply_adjustment_to_points_earned": action.earned}
    return DirectCall(
        f"{settings.base_url}/api/v2/points/adjust",
        {"x-guid": settings.guid, "x-api-key": settings.api_key.get_secret_value()},
        {
            "customer_email": action.email,
            "point_adjustment_amount": action.amount,
            **earned,
            "history_title": action.reason,
        },
    )
