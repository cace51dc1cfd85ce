"""Adjusting points at Yotpo. Neither API takes a key that makes a repeat harmless, so a reference
goes into the line of the customer's history, where it is looked for before a second try.
"""

from __future__ import annotations

import re
from typing import Any, Literal, Protocol

from connector.domain.actions import Action
from connector.domain.errors import Blocked, Problem, Rejected
from connector.net.rate_limit import RateLimiter
from connector.platforms.yotpo.api import YotpoApi
from connector.platforms.yotpo.settings import Settings
from connector.ports import Quota

TITLE_MAX = 255
"""No page states how long a line of the history may be."""


class AdjustApi(Protocol):
    """An API that adjusts points. `adjust` is given a permit by its caller."""

    @property
    def endpoint(self) -> str: ...
    @property
    def governor(self) -> RateLimiter: ...

    async def adjust(self, body: dict[str, Any]) -> Any: ...


class YotpoActions:
    """connector.ports.Actions. `through` adjusts, `api` is where it is looked up afterwards."""

    def __init__(self, settings: Settings, api: YotpoApi, adjust_api: AdjustApi) -> None:
        self.parallel = settings.max_concurrency
        self.endpoint = adjust_api.endpoint
        self._format = settings.reference_format
        self._classic = settings.api == "classic"
        self._api = api
        self._adjust_api = adjust_api

    @property
    def quota(self) -> Quota:
        return self._adjust_api.governor

    async def apply(self, action: Action) -> str | None:
        if action.name == "push":
            raise Rejected(Problem.PLATFORM_REFUSED, "Yotpo sends no push notifications")
        if not action.amount:
            raise Rejected(Problem.PLATFORM_REFUSED, "an amount of 0 changes nothing")
        try:
            answer = await self._adjust_api.adjust(self.body(action))
        except Blocked as error:
            # An app's address is a setting that may be wrong; then everybody would be unknown.
            if error.status != 404 or not self._classic:
                raise
            detail = "Yotpo does not know this customer"
            raise Rejected(Problem.PLATFORM_TARGET, detail, status=404) from error
        id = answer.get("id") if isinstance(answer, dict) else None
        return str(id) if isinstance(id, int | str) and not isinstance(id, bool) else None

    async def look_up(self, action: Action) -> Literal["applied", "absent", "unknowable"]:
        # A line that the customer does not see may be missing from the history for that alone.
        can_look_up = self._classic and action.visible and "{ref}" in self._format
        if not can_look_up:
            return "unknowable"
        params = _person_params(action)
        customer = await self._api.customer(
            email=params.get("customer_email"), id=params.get("customer_id"), history=True
        )
        items = customer.get("history_items") if customer is not None else None
        if not isinstance(items, list):
            return "unknowable"
        reference = re.compile(rf"(?<![\w-]){re.escape(action.ref)}(?![\w-])")
        found = any(
            isinstance(text, str) and reference.search(text)
            for item in items
            if isinstance(item, dict)
            for text in item.values()
        )
        return "applied" if found else "absent"

    def body(self, action: Action) -> dict[str, Any]:
        """What is posted. Points that are added count as earned, points taken off do not, unless
        the action says otherwise (Yotpo's table: reward +/true, redeem -/false)."""
        return {
            **_person_params(action),
            "point_adjustment_amount": action.amount,
            "apply_adjustment_to_points_earned": (
                action.amount > 0 if action.earned is None else action.earned
            ),
            "history_title": self.title(action),
            "visible_to_customer": action.visible,
        }

    def title(self, action: Action) -> str:
        """The reason and the reference; of a long reason the end is cut, never of the reference."""
        if not action.reason and "{ref}" in self._format:
            return action.ref
        template = self._format.replace("{ref}", action.ref)
        max_reason = TITLE_MAX - len(template.replace("{title}", ""))
        return template.replace("{title}", action.reason[: max(0, max_reason)])


def _person_params(action: Action) -> dict[str, str]:
    if action.email:
        return {"customer_email": action.email}
    id = action.person or action.customer
    if not id:
        raise Rejected(Problem.NO_IDENTITY, "neither an address nor an id says for whom")
    return {"customer_id": id}
