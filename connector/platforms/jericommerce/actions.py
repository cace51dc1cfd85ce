"""Points and pushes at JeriCommerce. It keeps no key of ours and lists no transactions, so nothing
that was done can be looked up: an answer that is lost stays unknown."""

from __future__ import annotations

from typing import Literal

from connector.domain.actions import Action
from connector.domain.errors import AmbiguousError, Blocked, Problem, Rejected, RetryLater
from connector.platforms.jericommerce.api import ANY_CALL, JeriCommerceApi
from connector.ports import Quota


class JeriCommerceActions:
    """connector.ports.Actions. Every action counts against the quota that reads share."""

    endpoint = ANY_CALL

    def __init__(self, api: JeriCommerceApi, *, parallel: int) -> None:
        self._api = api
        self.parallel = parallel

    @property
    def quota(self) -> Quota:
        return self._api.governor

    async def apply(self, action: Action) -> None:
        """Raises DeliveryError. No id comes back: JeriCommerce publishes none."""
        try:
            await (self._push(action) if action.name == "push" else self._adjust(action))
        except Blocked as error:
            if error.status != 404:
                raise
            # An unknown person is answered like an unknown program, and is by far the likelier.
            raise Rejected(Problem.PLATFORM_TARGET, error.detail, status=404) from error

    async def look_up(self, action: Action) -> Literal["unknowable"]:
        return "unknowable"

    async def _adjust(self, action: Action) -> None:
        if not action.email:
            raise Rejected(
                Problem.NO_IDENTITY, "JeriCommerce changes a balance by address, and none is known"
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
        """The platform's id of the person. The caller's `customer` may be Klaviyo's id of him, so
        the address comes first."""
        if not action.email:
            if action.customer:
                return action.customer
            raise Rejected(Problem.NO_IDENTITY, "a push needs a customer id or an address")
        try:
            found = await self._api.customer(action.email)
        except AmbiguousError as error:
            # Only a question was asked; nothing was pushed yet.
            raise RetryLater(error.problem, error.detail, status=error.status) from error
        id = found.get("id") if found is not None else None
        if not isinstance(id, str) or not id:
            raise Rejected(Problem.PLATFORM_TARGET, "JeriCommerce knows nobody with this address")
        await self._api.permit()
        return id
