"""Points at WLL: a private event whose reactor adjusts them. WLL has no list of received events,
so a lost answer stays ambiguous."""

from __future__ import annotations

from typing import Literal

from connector.domain.actions import Action
from connector.domain.errors import Problem, Rejected
from connector.platforms.json_api import before_action, unknown_person_on_404
from connector.platforms.wll.api import WllApi
from connector.platforms.wll.settings import Settings


class WllActions:
    """connector.ports.Actions. `earned` and `visible` mean nothing here: the reactor decides."""

    def __init__(self, settings: Settings, api: WllApi) -> None:
        self.endpoint, self.quota = api.endpoint, api.limiter
        self.parallel = settings.max_concurrency
        self._type = settings.points_event_type
        self._api = api

    async def apply(self, action: Action) -> str | None:
        """WLL's id of the event, if the response has one."""
        subject = action.person or await self._subject(action)
        payload = {
            "amount": action.amount,
            "reason": action.reason,
            "idempotencyKey": action.ref,
        }
        event = {"type": self._type, "subject": subject, "payload": payload}
        with unknown_person_on_404():
            return await self._api.post_event(event)

    async def look_up(self, action: Action) -> Literal["unknowable"]:
        return "unknowable"

    async def _subject(self, action: Action) -> str:
        """The authIdentifier of the customer. The caller may pass any of WLL's ids."""
        if not action.customer:
            raise Rejected(
                Problem.NO_IDENTITY, "WLL cannot look people up by e-mail address: send customer_id"
            )
        with before_action():
            user = await self._api.user(action.customer)
            if user is None:
                raise Rejected(Problem.PLATFORM_TARGET, "WLL has no user of this id")
            await self._api.permit()
        return str(user.get("authIdentifier") or user.get("id") or action.customer)
