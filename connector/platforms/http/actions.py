"""Changes points as `[connections.settings.adjust]` describes it."""

from __future__ import annotations

from typing import Any, Literal

from connector.domain.actions import Action
from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
)
from connector.net.http import ApiResponse
from connector.platforms.http.api import HttpApi
from connector.platforms.http.settings import Adjust, Settings
from connector.platforms.http.template import MissingValue, fill, fill_path
from connector.platforms.http.view import getter_at


class HttpActions:
    """connector.ports.Actions."""

    def __init__(self, settings: Settings, adjust: Adjust, api: HttpApi) -> None:
        self.endpoint, self.quota = api.endpoint, api.limiter
        self.parallel = settings.max_concurrency
        self._adjust = adjust
        self._api = api
        self._get_reference = getter_at(adjust.reference) if adjust.reference else None

    async def apply(self, action: Action) -> str | None:
        adjust, values = self._adjust, placeholder_values(action)
        try:
            path, body = fill_path(adjust.path, values), fill(adjust.body, values)
        except MissingValue as error:
            detail = f"the template needs {{{error}}}, which is not known of this person"
            raise Rejected(Problem.NO_IDENTITY, detail) from None
        route = f"{adjust.method} {adjust.path}"
        try:
            response = await self._api.adjust(adjust.method, path, route=route, body=body)
        except RetryLater:
            raise
        except DeliveryError as error:
            raise self._classify(error) from None
        if adjust.applied and response.status not in adjust.applied:
            detail = f"HTTP {response.status} is not among adjust.applied"
            raise AmbiguousError(Problem.ANSWER_UNREADABLE, detail, status=response.status)
        return self._reference_of(response)

    def _classify(self, error: DeliveryError) -> DeliveryError:
        """By the settings: a status that they do not name proves nothing."""
        if error.status in self._adjust.refused:
            return Rejected(Problem.PLATFORM_REFUSED, error.detail, status=error.status)
        if isinstance(error, Rejected) or (isinstance(error, Blocked) and error.status == 404):
            detail = f"{error.detail}, which is not among adjust.refused"
            return AmbiguousError(Problem.ANSWER_UNREADABLE, detail, status=error.status)
        return error

    def _reference_of(self, response: ApiResponse) -> str | None:
        """The platform's own id. A body that is not JSON is a gateway's page and proves nothing:
        raises AmbiguousError."""
        payload = response.json() if response.body.strip() else None
        found = self._get_reference(payload) if self._get_reference else None
        return str(found) if isinstance(found, str | int) else None

    async def look_up(self, action: Action) -> Literal["unknowable"]:
        return "unknowable"


def placeholder_values(action: Action) -> dict[str, Any]:
    """The values of an adjustment's placeholders (docs/http-platform.md)."""
    return {
        "email": action.email,
        "person": action.person,
        "amount": action.amount,
        "points": abs(action.amount),
        "direction": "decrease" if action.amount < 0 else "increase",
        "reason": action.reason,
        "ref": action.ref,
        "earned": action.amount > 0 if action.earned is None else action.earned,
        "visible": action.visible,
    }
