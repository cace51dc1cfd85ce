"""One platform's HTTP as its settings describe it: a person is read, points are changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import orjson

from connector.domain.actions import (
    Action,
)
from connector.domain.attention import (
    Check,
)
from connector.domain.errors import Blocked, DeliveryError, Problem, Rejected, Unknown, Wait
from connector.mapping.paths import blank
from connector.net.http import Answer, Http
from connector.net.rate_limit import Governor, Limit
from connector.platforms.http.settings import Adjust, Profile, Settings
from connector.platforms.http.template import Unfilled, fill, fill_path, places
from connector.platforms.http.view import at, person_view
from connector.platforms.kit import NOT_APPLIED, Kit
from connector.ports import Quota, Sight, Whom

CALLS = "every call"
"""The endpoint by which quota is counted."""
_NOBODY = "nobody@example.com"


def limits(settings: Settings) -> dict[str, Limit]:
    """`rate_per_second` over all calls: one quota for what is read and what is changed."""
    rate = settings.rate_per_second
    return {CALLS: Limit(max(1, round(rate)), max(1, round(rate * 60)))}


class HttpReader:
    """connector.ports.Reader."""

    endpoint = CALLS

    def __init__(
        self, settings: Settings, profile: Profile, http: Http, governor: Governor
    ) -> None:
        self.parallel = settings.max_concurrency
        self.by_id = "person" in places(profile.path) and "email" not in places(profile.path)
        self._profile = profile
        self._http = http
        self._governor = governor
        self._customer = at(profile.customer)
        self._id = at(profile.person) if profile.person else None
        self._view = person_view(profile)
        # What the answer does not say at a known path, the person does not have.
        self._covers = frozenset(profile.view) | {"email", "raw"}

    @property
    def quota(self) -> Quota:
        return self._governor

    async def read(self, who: Whom, reads: frozenset[str]) -> Sight | None:
        try:
            path = fill_path(self._profile.path, {"email": who.email, "person": who.platform_id})
        except Unfilled:
            return None  # what he could be asked for by is not known of him
        try:
            answer = await self._http.call("GET", path, route=f"GET {self._profile.path}")
        except Blocked as error:
            if error.status == 404:
                return None
            raise
        customer = self._customer(answer.json())
        if blank(customer) or customer == []:
            return None
        if not isinstance(customer, dict):
            raise Unknown(Problem.ANSWER_UNREADABLE, "the person is no JSON object")
        if self._id and who.platform_id and _is_another(self._id(customer), who.platform_id):
            return None
        view = self._view(customer, None)
        if who.email:
            view.setdefault("email", who.email)
        return Sight(view, self._covers)

    def renews(self, event: str) -> bool:
        return False

    async def check(self) -> Sequence[Check]:
        """Ask for somebody who does not exist: 404 shows that the credential is taken."""
        what = "profile"
        try:
            await self.read(Whom(0, "0", _NOBODY, b""), frozenset())
        except Rejected as error:
            # An invented id need not look like one.
            return [Check(what, "warning", f"answered: {error.detail}", error.problem)]
        except DeliveryError as error:
            return [Check(what, "fault", error.detail, error.problem)]
        return [Check(what, "ok", "taken")]


def _is_another(id: Any, expected: str) -> bool:
    return isinstance(id, str | int) and str(id).strip() != expected


class HttpActions:
    """connector.ports.Actions."""

    endpoint = CALLS

    def __init__(self, settings: Settings, adjust: Adjust, http: Http, governor: Governor) -> None:
        self.parallel = settings.max_concurrency
        self._adjust = adjust
        self._http = http
        self._governor = governor
        self._reference = at(adjust.reference) if adjust.reference else None

    @property
    def quota(self) -> Quota:
        return self._governor

    async def apply(self, action: Action) -> str | None:
        adjust, values = self._adjust, values_of(action)
        try:
            path = fill_path(adjust.path, values)
            content = orjson.dumps(fill(adjust.body, values))
        except Unfilled as error:
            detail = f"the template needs {{{error}}}, which is not known of this person"
            raise Rejected(Problem.NO_IDENTITY, detail) from None
        try:
            answer = await self._http.call(
                adjust.method, path, route=f"{adjust.method} {adjust.path}", content=content
            )
        except Wait:
            raise
        except DeliveryError as error:
            raise self._meant(error) from None
        if adjust.applied and answer.status not in adjust.applied:
            detail = f"HTTP {answer.status} is not among adjust.applied"
            raise Unknown(Problem.ANSWER_UNREADABLE, detail, status=answer.status)
        return self._said(answer)

    def _meant(self, error: DeliveryError) -> DeliveryError:
        """By the settings: a status that they do not name proves nothing."""
        if error.status in self._adjust.refused:
            return Rejected(Problem.PLATFORM_REFUSED, error.detail, status=error.status)
        if isinstance(error, Rejected) or (isinstance(error, Blocked) and error.status == 404):
            detail = f"{error.detail}, which is not among adjust.refused"
            return Unknown(Problem.ANSWER_UNREADABLE, detail, status=error.status)
        return error

    def _said(self, answer: Answer) -> str | None:
        """The platform's own id. A page instead of JSON is some gateway's, and proves nothing."""
        said = answer.json() if answer.body.strip() else None
        found = self._reference(said) if self._reference else None
        return str(found) if isinstance(found, str | int) else None

    async def look_up(self, action: Action) -> Literal["applied", "absent", "unknowable"]:
        return "unknowable"


def values_of(action: Action) -> dict[str, Any]:
    """What an adjustment's places stand for; docs/http-platform.md lists them."""
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


async def connect(settings: Settings, kit: Kit) -> tuple[Http, Http, Governor]:
    """The ways to the platform, for what may be repeated and what may not, with the headers as
    their credential."""

    def credential() -> dict[str, str]:
        headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        return {"content-type": "application/json", **headers}

    known = " ".join(f"{n}={v.get_secret_value()}" for n, v in sorted(settings.headers.items()))
    governor = await kit.quota(f"{settings.base_url} {known}", limits(settings))
    ways = (NOT_APPLIED, kit.retry_statuses)
    reading, changing = (kit.http(settings.base_url, credential, statuses) for statuses in ways)
    return reading, changing, governor
