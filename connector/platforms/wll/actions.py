"""Points at WLL: a private event whose reactor adjusts them. WLL shows no list that could tell
whether an event came in, so an answer that is lost stays unknown."""

from __future__ import annotations

from typing import Literal

from connector.domain.actions import Action
from connector.domain.errors import AmbiguousError, Blocked, Problem, Rejected, RetryLater
from connector.platforms.wll.api import ANY_CALL, WllApi
from connector.platforms.wll.settings import Settings
from connector.ports import Quota


class WllActions:
    """connector.ports.Actions. `earned` and `visible` mean nothing here: the reactor decides."""

    endpoint = ANY_CALL

    def __init__(self, settings: Settings, api: WllApi) -> None:
        self._type = settings.points_event_type
        self._api = api
        self.parallel = settings.max_concurrency

    @property
    def quota(self) -> Quota:
        return self._api.governor

    async def apply(self, action: Action) -> str | None:
        """WLL's id of the event, where it says one. Raises DeliveryError."""
        subject = action.person or await self._subject(action)
        payload = {
            "amount": action.amount,
            "reason": action.reason,
            "idempotencyKey": action.ref,
        }
        event = {"type": self._type, "subject": subject, "payload": payload}
        try:
            return await self._api.post_event(event)
        except Blocked as error:
            if error.status != 404:
                raise
            # An unknown user is answered like an unknown path, and is by far the likelier.
            raise Rejected(Problem.PLATFORM_TARGET, error.detail, status=404) from error

    async def look_up(self, action: Action) -> Literal["unknowable"]:
        return "unknowable"

    async def _subject(self, action: Action) -> str:
        """The authIdentifier of the customer whom the caller names by any of WLL's ids."""
        if not action.customer:
            raise Rejected(Problem.NO_IDENTITY, "WLL finds nobody by address: give customer_id")
        try:
            user = await self._api.user(action.customer)
        except AmbiguousError as error:
            # Only a question was asked; nothing was adjusted yet.
            raise RetryLater(error.problem, error.detail, status=error.status) from error
        if user is None:
            raise Rejected(Problem.PLATFORM_TARGET, "WLL knows no user of this id")
        await self._api.permit()
        return str(user.get("authIdentifier") or user.get("id") or action.customer)
