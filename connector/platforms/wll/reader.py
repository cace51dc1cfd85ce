"""Reads people at WLL: one user by id, all users page by page, and the members of an audience."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connector.domain.attention import Check
from connector.platforms.extras import unless_unavailable
from connector.platforms.json_api import credential_check, person_ids
from connector.platforms.wll.api import WllApi
from connector.platforms.wll.settings import Settings
from connector.platforms.wll.view import WITHHELD, on_sale, person_covers, person_view, withheld
from connector.ports import (
    Member,
    MembersPage,
    PeoplePage,
    PeoplePageItem,
    PersonRef,
    PersonSnapshot,
)


class WllReader:
    """connector.ports.Reader, Stream and Audiences. The id of a person is WLL's authIdentifier."""

    by_id = True

    def __init__(self, settings: Settings, api: WllApi) -> None:
        self.endpoint, self.quota = api.endpoint, api.limiter
        self.parallel = settings.max_concurrency
        self._placeholders = frozenset(settings.placeholders)
        self._api = api

    async def read(self, ref: PersonRef, fields: frozenset[str]) -> PersonSnapshot | None:
        """WLL cannot look people up by address."""
        user = await self._api.user(ref.platform_id) if ref.platform_id else None
        return await self._snapshot_of(user, fields) if user is not None else None

    async def page(
        self, cursor: str | None, fields: frozenset[str], *, backfill: bool = False
    ) -> PeoplePage:
        at = self._api.now()
        found = await self._api.users(cursor, backfill=backfill)
        people = [
            PeoplePageItem(
                _person_id(user), _address(user) if "email" in snapshot.view else None, snapshot
            )
            for user in found.items
            if _person_id(user) and (snapshot := await self._snapshot_of(user, fields))
        ]
        return PeoplePage(people, found.cursor, found.cursor is not None, at)

    async def names(self) -> Mapping[str, str]:
        names: dict[str, str] = {}
        cursors: set[str | None] = set()
        cursor: str | None = None
        while cursor not in cursors:
            cursors.add(cursor)
            found = await self._api.audiences(cursor)
            names |= {str(a["id"]): str(a.get("name", "")) for a in found.items if a.get("id")}
            cursor = found.cursor
        return names

    async def members(self, audience: str, cursor: str | None) -> MembersPage:
        """Without the withheld users: their membership must not be used either."""
        found = await self._api.members(audience, cursor)
        members = [
            Member(platform_id=_person_id(user), email=_address(user))
            for user in found.items
            if not withheld(user, self._placeholders)
        ]
        return MembersPage(members, found.cursor, found.cursor is not None)

    async def check(self) -> Sequence[Check]:
        await self._api.permit()
        # Rejected: not an id that a user may have, so key and client were accepted.
        return await credential_check(
            "WLL key and client", self._api.user("no-such-user"), accepted="accepted", rejected="ok"
        )

    async def _snapshot_of(self, user: dict[str, Any], fields: frozenset[str]) -> PersonSnapshot:
        if why := withheld(user, self._placeholders):
            return PersonSnapshot({"withheld": why}, WITHHELD)
        extras = await self._extras(fields)
        view = person_view(user, extras, self._placeholders)
        return PersonSnapshot(view, person_covers(extras), _ids(user))

    async def _extras(self, fields: frozenset[str]) -> Mapping[str, Any]:
        """`tiers` and `rewards`, where fields need them and they can be had."""
        needed = {field.partition(".")[0] for field in fields}
        extras: dict[str, Any] = {}
        if "next_tier" in needed:
            extras["tiers"] = await unless_unavailable(self._api.tiers())
        if "next_reward" in needed:
            extras["rewards"] = await unless_unavailable(self._rewards())
        return {name: items for name, items in extras.items() if items is not None}

    async def _rewards(self) -> Sequence[Any]:
        now = self._api.now()
        return [reward for reward in await self._api.rewards() if on_sale(reward, now)]


def _person_id(user: Mapping[str, Any]) -> str | None:
    """WLL's own id for a user without authIdentifier; users can be read by it as well."""
    for key in ("authIdentifier", "id"):
        if isinstance(user.get(key), str) and user[key]:
            return str(user[key])
    return None


def _ids(user: Mapping[str, Any]) -> tuple[str, ...]:
    """All ids of a user: reads and events take any of them (vendor pages on users and events)."""
    return person_ids(*(user.get(key) for key in ("authIdentifier", "id", "accountNumber")))


def _address(user: Mapping[str, Any]) -> str | None:
    email = user.get("emailAddress")
    return email.strip().lower() if isinstance(email, str) and email.strip() else None
