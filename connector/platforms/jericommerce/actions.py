"""Points and push notifications at JeriCommerce. It keeps no idempotency key and lists no
transactions, so an action cannot be looked up: a lost answer stays ambiguous."""

from __future__ import annotations

from typing import Literal

from connector.domain.actions import Action
from connector.domain.errors import Problem, Rejected
from connector.platforms.jericommerce.api import JeriCommerceApi
from connector.platforms.jericommerce.settings import Settings
from connector.platforms.json_api import before_action, unknown_person_on_404


class JeriCommerceActions:
    """connector.ports.Actions."""

    def __init__(self, settings: Settings, api: JeriCommerceApi) -> None:
        self.endpoint, self.quota = api.endpoint, api.limiter
        self.parallel = settings.max_concurrency
        self._api = api

    async def apply(self, action: Action) -> None:
        """No id comes back: JeriCommerce publishes none."""
        with unknown_person_on_404():
            await (self._push(action) if action.name == "push" else self._adjust(action))

    async def look_up(self, action: Action) -> Literal["unknowable"]:
        return "unknowable"

    async def _adjust(self, action: Action) -> None:
        if not action.email:
            raise Rejected(
                Problem.NO_IDENTITY,
                "JeriCommerce changes a balance by e-mail address, and none is known",
            )
        if not action.amount:
            raise Rejected(Problem.PLATFORM_REFUSED, "an amount of 0 changes nothing")
        item = {"email": action.email, "amount": abs(action.amount), "reason": action.reason}
        await self._api.change_balance("increase" if action.amount > 0 else "decrease", item)

    async def _push(self, action: Action) -> None:
        customer = action.person or await self._customer(action)
        message = {"customer_id": customer, "message": action.message}
        await self._api.push({**message, "url": action.url} if action.url else message)

    async def _customer(self, action: Action) -> str:
        """The platform's id of the person. The caller's `customer` may be Klaviyo's id of them, so
        the address comes first."""
        if not action.email:
            if action.customer:
                return action.customer
            raise Rejected(Problem.NO_IDENTITY, "a push needs a customer id or an e-mail address")
        with before_action():
            found = await self._api.customer(action.email)
            id = found.get("id") if found is not None else None
            if not isinstance(id, str) or not id:
                text = "JeriCommerce has no customer of this address"
                raise Rejected(Problem.PLATFORM_TARGET, text)
            await self._api.permit()
            return id
