"""Adjusts points at Yotpo. Neither API takes an idempotency key, so a reference goes into the line
of the customer's history, where it is searched for before a second try.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal, Protocol

from connector.domain.actions import Action
from connector.domain.errors import Problem, Rejected
from connector.platforms.json_api import unknown_person_on_404
from connector.platforms.yotpo.api import YotpoApi
from connector.platforms.yotpo.settings import Settings
from connector.platforms.yotpo.view import person_id
from connector.ports import Quota

TITLE_MAX = 255
"""No page states how long a line of the history may be. Its beginning is cut last."""
_MAX_PREFIX = 10
"""Characters before the reference that leave it complete in any line."""


class AdjustApi(Protocol):
    """An API that adjusts points; `adjust` uses one permit of its caller."""

    @property
    def endpoint(self) -> str: ...
    @property
    def limiter(self) -> Quota: ...

    async def adjust(self, body: Mapping[str, Any]) -> Any: ...


class YotpoActions:
    """connector.ports.Actions. `adjust_api` adjusts, `api` is where it is looked up afterwards."""

    def __init__(self, settings: Settings, api: YotpoApi, adjust_api: AdjustApi) -> None:
        self.endpoint, self.quota = adjust_api.endpoint, adjust_api.limiter
        self.parallel = settings.max_concurrency
        self._format = settings.reference_format
        self._classic = settings.api == "classic"
        self._api = api
        self._adjust_api = adjust_api

    async def apply(self, action: Action) -> str | None:
        if action.name == "push":
            raise Rejected(Problem.PLATFORM_REFUSED, "Yotpo sends no push notifications")
        if not action.amount:
            raise Rejected(Problem.PLATFORM_REFUSED, "an amount of 0 changes nothing")
        unknown_person = unknown_person_on_404("Yotpo does not know this customer")
        # An app's address is a setting that may be wrong; then every person would be unknown.
        with unknown_person if self._classic else nullcontext():
            answer = await self._adjust_api.adjust(self.body(action))
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
        if customer is None or _is_other_person(customer, action):
            return "unknowable"
        texts = _history_texts(customer)
        reference = re.compile(rf"(?<![\w-]){re.escape(action.ref)}(?![\w-])")
        if any(reference.search(text) for text in texts or ()):
            return "applied"
        return "unknowable" if texts is None or not self._shows_reference else "absent"

    @property
    def _shows_reference(self) -> bool:
        """Whether every line of the history shows its reference, however long a line may be."""
        prefix = self._format.partition("{ref}")[0]
        return "{title}" not in prefix and len(prefix) <= _MAX_PREFIX

    def body(self, action: Action) -> dict[str, Any]:
        """The request's body. Points that are added count as earned, points taken off do not,
        unless the action says otherwise (Yotpo's table: reward +/true, redeem -/false)."""
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
        """The reason and the reference. A long reason is cut, the reference never."""
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
        raise Rejected(Problem.NO_IDENTITY, "neither an e-mail address nor an id is known")
    return {"customer_id": id}


def _is_other_person(customer: Mapping[str, Any], action: Action) -> bool:
    """Whether the address belongs to another customer by now."""
    id = person_id(customer)
    return action.person is not None and id is not None and id != action.person


def _history_texts(customer: Mapping[str, Any]) -> list[str] | None:
    """The texts of the customer's history; None where it is not shown, or not as far as it can be
    read: then a line that is missing proves nothing."""
    items = customer.get("history_items")
    if not isinstance(items, list) or (not items and customer.get("points_balance") != 0):
        return None
    found: list[str] = []
    for item in items:
        values = item.values() if isinstance(item, dict) else ()
        texts = [text for text in values if isinstance(text, str)]
        if not texts:
            return None
        found += texts
    return found
