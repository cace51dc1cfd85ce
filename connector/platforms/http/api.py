"""One platform's HTTP as its settings describe it: a person is read, points are changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import orjson

from connector.domain.actions import Action
from connector.domain.attention import Check
from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
)
from connector.mapping.paths import is_blank
from connector.net.http import ApiResponse, Http
from connector.net.rate_limit import Limit, RateLimiter
from connector.platforms.http.settings import Adjust, Profile, Settings
from connector.platforms.http.template import MissingValue, fill, fill_path, placeholders
from connector.platforms.http.view import getter_at, person_view
from connector.platforms.kit import NOT_APPLIED, Kit
from connector.ports import PersonRef, PersonSnapshot, Quota

ANY_CALL = "every call"
"""The endpoint by which quota is counted."""
_UNKNOWN_EMAIL = "nobody@example.com"


def limits(settings: Settings) -> dict[str, Limit]:
    """`rate_per_second` over all calls: one quota for what is read and what is changed."""
    rate = settings.rate_per_second
    return {ANY_CALL: Limit(max(1, round(rate)), max(1, round(rate * 60)))}


class HttpReader:
    """connector.ports.Reader."""

    endpoint = ANY_CALL

    def __init__(
        self, settings: Settings, profile: Profile, http: Http, governor: RateLimiter
    ) -> None:
        self.parallel = settings.max_concurrency
        self.by_id = "person" in placeholders(profile.path) and "email" not in placeholders(
            profile.path
        )
        self._profile = profile
        self._http = http
        self._governor = governor
        self._get_customer = getter_at(profile.customer)
        self._get_id = getter_at(profile.person) if profile.person else None
        self._view = person_view(profile)
        # What the answer does not say at a known path, the person does not have.
        self._covers = frozenset(profile.view) | {"email", "raw"}

    @property
    def quota(self) -> Quota:
        return self._governor

    async def read(self, ref: PersonRef, fields: frozenset[str]) -> PersonSnapshot | None:
        try:
            path = fill_path(self._profile.path, {"email": ref.email, "person": ref.platform_id})
        except MissingValue:
            return None  # what he could be asked for by is not known of him
        try:
            answer = await self._http.call("GET", path, route=f"GET {self._profile.path}")
        except Blocked as error:
            if error.status == 404:
                return None
            raise
        customer = self._get_customer(answer.json())
        if is_blank(customer) or customer == []:
            return None
        if not isinstance(customer, dict):
            raise AmbiguousError(Problem.ANSWER_UNREADABLE, "the person is no JSON object")
        if (
            self._get_id
            and ref.platform_id
            and _is_other_person(self._get_id(customer), ref.platform_id)
        ):
            return None
        view = self._view(customer, None)
        if ref.email:
            view.setdefault("email", ref.email)
        return PersonSnapshot(view, self._covers)

    def needs_refetch(self, event: str) -> bool:
        return False

    async def check(self) -> Sequence[Check]:
        """Ask for somebody who does not exist: 404 shows that the credential is taken."""
        what = "profile"
        try:
            await self.read(PersonRef(0, "0", _UNKNOWN_EMAIL, b""), frozenset())
        except Rejected as error:
            # An invented id need not look like one.
            return [Check(what, "warning", f"answered: {error.detail}", error.problem)]
        except DeliveryError as error:
            return [Check(what, "fault", error.detail, error.problem)]
        return [Check(what, "ok", "taken")]


def _is_other_person(id: Any, expected: str) -> bool:
    return isinstance(id, str | int) and str(id).strip() != expected


class HttpActions:
    """connector.ports.Actions."""

    endpoint = ANY_CALL

    def __init__(
        self, settings: Settings, adjust: Adjust, http: Http, governor: RateLimiter
    ) -> None:
        self.parallel = settings.max_concurrency
        self._adjust = adjust
        self._http = http
        self._governor = governor
        self._get_reference = getter_at(adjust.reference) if adjust.reference else None

    @property
    def quota(self) -> Quota:
        return self._governor

    async def apply(self, action: Action) -> str | None:
        adjust, values = self._adjust, placeholder_values(action)
        try:
            path = fill_path(adjust.path, values)
            content = orjson.dumps(fill(adjust.body, values))
        except MissingValue as error:
            detail = f"the template needs {{{error}}}, which is not known of this person"
            raise Rejected(Problem.NO_IDENTITY, detail) from None
        try:
            answer = await self._http.call(
                adjust.method, path, route=f"{adjust.method} {adjust.path}", content=content
            )
        except RetryLater:
            raise
        except DeliveryError as error:
            raise self._classify(error) from None
        if adjust.applied and answer.status not in adjust.applied:
            detail = f"HTTP {answer.status} is not among adjust.applied"
            raise AmbiguousError(Problem.ANSWER_UNREADABLE, detail, status=answer.status)
        return self._reference_of(answer)

    def _classify(self, error: DeliveryError) -> DeliveryError:
        """By the settings: a status that they do not name proves nothing."""
        if error.status in self._adjust.refused:
            return Rejected(Problem.PLATFORM_REFUSED, error.detail, status=error.status)
        if isinstance(error, Rejected) or (isinstance(error, Blocked) and error.status == 404):
            detail = f"{error.detail}, which is not among adjust.refused"
            return AmbiguousError(Problem.ANSWER_UNREADABLE, detail, status=error.status)
        return error

    def _reference_of(self, answer: ApiResponse) -> str | None:
        """The platform's own id. A page instead of JSON is some gateway's, and proves nothing."""
        payload = answer.json() if answer.body.strip() else None
        found = self._get_reference(payload) if self._get_reference else None
        return str(found) if isinstance(found, str | int) else None

    async def look_up(self, action: Action) -> Literal["applied", "absent", "unknowable"]:
        return "unknowable"


def placeholder_values(action: Action) -> dict[str, Any]:
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


async def connect(settings: Settings, kit: Kit) -> tuple[Http, Http, RateLimiter]:
    """The ways to the platform, for what may be repeated and what may not, with the headers as
    their credential."""

    def credential() -> dict[str, str]:
        headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        return {"content-type": "application/json", **headers}

    known = " ".join(f"{n}={v.get_secret_value()}" for n, v in sorted(settings.headers.items()))
    governor = await kit.quota(f"{settings.base_url} {known}", limits(settings))
    statuses_by_client = (NOT_APPLIED, kit.retry_statuses)
    reading, changing = (
        kit.http(settings.base_url, credential, statuses) for statuses in statuses_by_client
    )
    return reading, changing, governor
