"""Groups on the remote side: a platform's audiences, Klaviyo's lists and segments."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from connector.domain.attention import Check
from connector.domain.errors import AmbiguousError, DeliveryError, Problem, RetryLater
from connector.domain.lanes import Millis
from connector.domain.memberships import Group
from connector.ports import Audiences, Clock, MemberGroups, MembersPage, TargetGroups
from connector.runtime import log
from connector.sync.group_names import offer

_CREATE_AGAIN_AFTER = 30.0
"""Seconds in which the remote side may still create a group whose call had no answer."""


class RemoteGroups(Protocol):
    """Groups of one kind. All methods raise DeliveryError."""

    @property
    def filters_by_join_time(self) -> bool:
        """Whether `members` supports `since`."""
        ...

    async def find(self, name: str) -> Mapping[str, str]:
        """Id → name of the groups with this name, else of the group with this id."""
        ...

    def all(self) -> AsyncIterator[Mapping[str, str]]:
        """Id → name of every group, page by page."""
        ...

    async def create(self, name: str) -> str | None:
        """The id of a new group; None where the connector creates none."""
        ...

    async def members(
        self, id: str, cursor: str | None, *, since: Millis | None = None
    ) -> MembersPage:
        """The page at `cursor`; with `since` only of those who joined then or later."""
        ...

    async def is_processing(self, id: str) -> bool:
        """Whether the remote side still computes who is in the group, so that a scan of it would
        not be complete."""
        ...


class PlatformAudiences:
    """RemoteGroups over a platform's audiences."""

    filters_by_join_time = False

    def __init__(self, audiences: Audiences) -> None:
        self._audiences = audiences

    async def find(self, name: str) -> Mapping[str, str]:
        names = await self._audiences.names()
        if name in names:
            return {name: names[name]}
        return {id: title for id, title in names.items() if title == name}

    async def all(self) -> AsyncIterator[Mapping[str, str]]:
        yield await self._audiences.names()

    async def create(self, name: str) -> str | None:
        return None

    async def members(
        self, id: str, cursor: str | None, *, since: Millis | None = None
    ) -> MembersPage:
        return await self._audiences.members(id, cursor)

    async def is_processing(self, id: str) -> bool:
        return False


class KlaviyoLists:
    """RemoteGroups over Klaviyo's lists. `creates`: a list that does not exist is created."""

    filters_by_join_time = True

    def __init__(self, groups: TargetGroups, *, creates: bool = False) -> None:
        self._groups = groups
        self._creates = creates

    async def find(self, name: str) -> Mapping[str, str]:
        return await self._groups.find("list", name)

    def all(self) -> AsyncIterator[Mapping[str, str]]:
        return self._groups.all("list")

    async def create(self, name: str) -> str | None:
        return await self._groups.create_list(name) if self._creates else None

    async def members(
        self, id: str, cursor: str | None, *, since: Millis | None = None
    ) -> MembersPage:
        return await self._groups.members("list", id, cursor, since=since)

    async def is_processing(self, id: str) -> bool:
        return False


class KlaviyoSegments:
    """RemoteGroups over Klaviyo's segments."""

    filters_by_join_time = True

    def __init__(self, groups: TargetGroups) -> None:
        self._groups = groups

    async def find(self, name: str) -> Mapping[str, str]:
        return await self._groups.find("segment", name)

    def all(self) -> AsyncIterator[Mapping[str, str]]:
        return self._groups.all("segment")

    async def create(self, name: str) -> str | None:
        return None

    async def members(
        self, id: str, cursor: str | None, *, since: Millis | None = None
    ) -> MembersPage:
        return await self._groups.members("segment", id, cursor, since=since)

    async def is_processing(self, id: str) -> bool:
        return await self._groups.is_processing(id)


class GroupResolver:
    """Finds the remote ids of groups by their configured names."""

    def __init__(self, remote: RemoteGroups, groups: MemberGroups, clock: Clock) -> None:
        self._remote = remote
        self._groups = groups
        self._clock = clock
        self._create_at = 0.0
        self._log = log.get("memberships")

    async def resolve(self, group: Group) -> str | None:
        """The remote id, looked up where it is not known yet, or of a group that is created now.
        None where no group, or more than one, has the name: the group's problem says so. Raises
        DeliveryError."""
        if group.remote_id is not None:
            return group.remote_id
        found = await self._remote.find(group.name)
        if len(found) > 1:
            detail = (
                f"{len(found)} are named {group.name}, so none is synced: configure the id, one of "
                f"{', '.join(sorted(found))}"
            )
            await self._groups.set_problem(group.id, Problem.GROUP_AMBIGUOUS, detail)
            return None
        if not found:
            # The look-up came first, so a create call whose answer was lost is not repeated.
            created = await self._create(group.name)
            if created is None:
                if group.problem is Problem.GROUP_NOT_FOUND:
                    return None  # it is looked up each minute, and names are read once
                instead = await offer(group.name, self._remote.all())
                detail = (
                    f"there is no {group.kind} {group.name}, so it is not synced: create it or "
                    f"correct its name{instead.text}"
                )
                await self._groups.set_problem(group.id, Problem.GROUP_NOT_FOUND, detail)
                return None
            self._log.info("list_created", connection=group.connection, list=group.name)
            found = {created: group.name}
        [(remote_id, title)] = found.items()
        await self._groups.set_remote_id(group.id, remote_id, title, now=self._clock.now())
        return remote_id

    async def _create(self, name: str) -> str | None:
        if wait := max(0.0, self._create_at - self._clock.monotonic()):
            detail = "the call that creates it had no answer, and may still be carried out"
            raise RetryLater(Problem.TIMED_OUT, detail, after=wait)
        try:
            return await self._remote.create(name)
        except AmbiguousError:
            self._create_at = self._clock.monotonic() + _CREATE_AGAIN_AFTER
            raise

    async def forget(self, group: Group) -> None:
        """The remote side does not know the group's id: look a source up by its name again. Not a
        target: a person may have deleted the list on purpose."""
        if not group.is_target:
            await self._groups.clear_remote_id(group.id)


async def check_groups(
    kind: str,
    wanted: Sequence[str],
    remote: RemoteGroups,
    *,
    created_on_demand: frozenset[str] = frozenset(),
) -> list[Check]:
    """One Check for each configured name: whether the remote side has exactly one group of it.
    Those of `created_on_demand` need not exist yet."""
    checks = []
    for name in dict.fromkeys(wanted):
        subject = f"{kind} {name}"
        try:
            found = await remote.find(name)
        except DeliveryError as error:
            checks.append(Check(subject, "fault", error.detail, error.problem))
            continue
        if len(found) > 1:
            detail = f"configure the id, one of {', '.join(sorted(found))}"
            checks.append(Check(subject, "fault", detail, Problem.GROUP_AMBIGUOUS))
        elif found:
            [(id, title)] = found.items()
            checks.append(Check(subject, "ok", f"{id} {title}"))
        elif name in created_on_demand:
            checks.append(Check(subject, "ok", "is created by the first sync"))
        else:
            detail = "there is none" + (await offer(name, remote.all())).text
            checks.append(Check(subject, "fault", detail, Problem.GROUP_NOT_FOUND))
    return checks
