"""The call that JeriCommerce's own guides let a Klaviyo flow send: a balance change with the
api-key, or the push of its preview pages with Klaviyo's id."""

from __future__ import annotations

from connector.domain.actions import Action
from connector.platforms.jericommerce.settings import Settings
from connector.ports import DirectCall

_KLAVIYO_ID_TEMPLATE = "{{ person.id|escapejs }}"


def direct(settings: Settings, action: Action) -> DirectCall:
    """connector.ports.Platform.direct."""
    key = settings.api_key.get_secret_value()
    if action.name == "push":
        bearer = settings.push_auth == "bearer"
        headers = {"Authorization": f"Bearer {key}"} if bearer else {"api-key": key}
        body = {"customer_id": _KLAVIYO_ID_TEMPLATE, "message": action.message}
        return DirectCall(
            settings.push_url, headers, {**body, "url": action.url} if action.url else body
        )
    direction = "increase" if action.amount > 0 else "decrease"
    return DirectCall(
        f"{settings.base_url}/v1/programs/{settings.program}/balance/{direction}",
        {"api-key": key},
        [{"email": action.email, "amount": abs(action.amount), "reason": action.reason}],
    )
