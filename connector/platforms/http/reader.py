"""Reads one person as `[connections.settings.profile]` describes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connector.domain.attention import Check
from connector.domain.errors import AmbiguousError, Problem
from connector.mapping.paths import is_blank
from connector.platforms.http.api import HttpApi
from connector.platforms.http.settings import Profile, Settings
from connector.platforms.http.template import MissingValue, fill_path, placeholders
from connector.platforms.http.view import getter_at, person_view
from connector.platforms.json_api import credential_check, person_ids
from connector.ports import PersonRef, PersonSnapshot

_UNKNOWN_PERSON = PersonRef(0, "0", "nobody@example.com", b"")


class HttpReader:
    """connector.ports.Reader."""

    def __init__(self, settings: Settings, profile: Profile, api: HttpApi) -> None:
        self.endpoint, self.quota = api.endpoint, api.limiter
        self.parallel = settings.max_concurrency
        used = set(placeholders(profile.path))
        self.by_id = "person" in used and "email" not in used
        self._profile = profile
        self._api = api
        self._get_customer = getter_at(profile.customer)
        self._get_id = getter_at(profile.person) if profile.person else None
        self._view = person_view(profile)
        # A person has no value for a configured field that the response lacks.
        self._covers = frozenset(profile.view) | {"email", "raw"}

    async def read(self, ref: PersonRef, fields: frozenset[str]) -> PersonSnapshot | None:
        try:
            path = fill_path(self._profile.path, {"email": ref.email, "person": ref.platform_id})
        except MissingValue:
            return None
        response = await self._api.person(path, route=f"GET {self._profile.path}")
        customer = self._get_customer(response.json()) if response is not None else None
        if is_blank(customer) or customer == []:
            return None
        if not isinstance(customer, dict):
            raise AmbiguousError(Problem.ANSWER_UNREADABLE, "the person is not a JSON object")
        if self._is_other_person(customer, ref):
            return None
        view = self._view(customer, {})
        if ref.email:
            view.setdefault("email", ref.email)
        id = self._get_id(customer) if self._get_id else None
        return PersonSnapshot(view, self._covers, person_ids(id))

    def _is_other_person(self, customer: dict[str, Any], ref: PersonRef) -> bool:
        if self._get_id is None or not ref.platform_id:
            return False
        id = self._get_id(customer)
        return isinstance(id, str | int) and str(id).strip() != ref.platform_id

    async def check(self) -> Sequence[Check]:
        """Reads a person who does not exist: a 404 shows that the credential is accepted."""
        await self._api.permit()
        read = self.read(_UNKNOWN_PERSON, frozenset())
        # A platform may refuse an id that it never gives out.
        return await credential_check("profile", read, accepted="accepted", rejected="warning")
