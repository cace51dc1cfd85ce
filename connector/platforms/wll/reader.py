"""Reading at WLL: one user by an id, everybody page by page, and who is in an audience."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connector.domain.attention import Check
from connector.domain.errors import AmbiguousError, Blocked, DeliveryError, Rejected
from connector.platforms.wll.api import ANY_CALL, WllApi
from connector.platforms.wll.settings import Settings
from connector.platforms.wll.view import (
    COVERS,
    WITHHELD,
    next_reward,
    next_tier,
    user_view,
    withheld,
)
from connector.ports import (
    Member,
    MembersPage,
    PeoplePage,
    PeoplePageItem,
    PersonRef,
    PersonSnapshot,
    Quota,
)


class WllReader:
    """connector.ports.Reader, Stream and Audiences. A person is WLL's authIdentifier."""

    endpoint = ANY_CALL
    by_id = True

    def __init__(self, settings: Settings, api: WllApi) -> None:
        self.parallel = settings.max_concurrency
        self._placeholders = frozenset(settings.placeholders)
        self._api = api

    @property
    def quota(self) -> Quota:
        return self._api.governor

    async def read(self, ref: PersonRef, fields: frozenset[str]) -> PersonSnapshot | None:
        """Nobody can be asked for by address."""
        user = await self._api.user(ref.platform_id) if ref.platform_id else None
        return await self._snapshot_of(user, fields) if user is not None else None

    def needs_refetch(self, event: str) -> bool:
        return False

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
        """Who is withheld is no member: nothing of him may be told, that neither."""
        found = await self._api.members(audience, cursor)
        members = [
            Member(platform_id=_person_id(user), email=_address(user))
            for user in found.items
            if not withheld(user, self._placeholders)
        ]
        return MembersPage(members, found.cursor, found.cursor is not None)

    async def check(self) -> Sequence[Check]:
        what = "WLL key and client"
        await self._api.permit()
        try:
            await self._api.user("nobody")
        except Rejected:
            pass  # no id of a user, then; both were taken
        except DeliveryError as error:
            return [Check(what, "fault", error.detail, error.problem)]
        return [Check(what, "ok", "taken")]

    async def _snapshot_of(self, user: dict[str, Any], reads: frozenset[str]) -> PersonSnapshot:
        if why := withheld(user, self._placeholders):
            return PersonSnapshot({"withheld": why}, WITHHELD)
        view = user_view(user, self._placeholders)
        covers = COVERS
        for field, load_goal in (
            ("next_tier", self._next_tier),
            ("next_reward", self._next_reward),
        ):
            if any(read.partition(".")[0] == field for read in reads):
                try:
                    found = await load_goal(user)
                except (Rejected, AmbiguousError, Blocked) as error:
                    # Without it the rest of the person is still worth telling.
                    if isinstance(error, Blocked) and error.scope == "account":
                        raise
                    continue
                covers |= {field}
                if found:
                    view[field] = found
        return PersonSnapshot(view, covers)

    async def _next_tier(self, user: dict[str, Any]) -> dict[str, Any] | None:
        return next_tier(user, await self._api.tiers())

    async def _next_reward(self, user: dict[str, Any]) -> dict[str, Any] | None:
        return next_reward(user, await self._api.rewards(), self._api.now())


def _person_id(user: Mapping[str, Any]) -> str | None:
    """Who has no authIdentifier is known by WLL's own id, which can be asked for as well."""
    for key in ("authIdentifier", "id"):
        if isinstance(user.get(key), str) and user[key]:
            return str(user[key])
    return None


def _address(user: Mapping[str, Any]) -> str | None:
    email = user.get("emailAddress")
    return email.strip().lower() if isinstance(email, str) and email.strip() else None
