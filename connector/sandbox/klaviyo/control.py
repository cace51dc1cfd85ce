"""Reads and changes the emulated account outside its API: what a test or the demo needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from connector.sandbox.klaviyo.account import AccountState
from connector.sandbox.klaviyo.lists import MemberList
from connector.sandbox.klaviyo.rules import ProfileIn
from connector.sandbox.klaviyo.segments import Segments
from connector.sandbox.klaviyo.state import Memory, Profile
from connector.sandbox.klaviyo.write_ledger import Write


class AccountControl:
    """Direct access to the data of an account: assertions, fixtures, changes by others."""

    def __init__(self, account: AccountState, segments: Segments) -> None:
        self._account = account
        self._segments = segments
        self.jobs = account.jobs
        self.flows = account.flows

    def recorded(self, unique_id: str) -> int:
        """The number of recorded events with this unique id."""
        return self._account.memory.recorded(unique_id)

    def unique_ids(self) -> dict[str, int]:
        """Every unique id → the number of recorded events that have it."""
        return dict(self._account.memory.unique_ids())

    @property
    def foreign_metrics(self) -> list[tuple[str, str]]:
        """(metric, integration) that other integrations send; append to it."""
        return self._account.memory.foreign_metrics

    @property
    def erasures(self) -> list[str]:
        """The e-mail addresses of the deletion jobs."""
        return self._account.memory.erasures

    def profile(self, email: str) -> dict[str, Any] | None:
        """The attributes of the profile with this address, case-insensitive, or None.

        {"email": …, "first_name": …, "location": {…}, "properties": {…}}, without empty ones.
        """
        self.jobs.settle()
        found = self._account.memory.by("email", email)
        return None if found is None else _attributes(found)

    def profile_id(self, email: str) -> str | None:
        """The id of the profile with this address, or None."""
        self.jobs.settle()
        found = self._account.memory.by("email", email)
        return None if found is None else found.id

    @property
    def profiles_by_id(self) -> Mapping[str, dict[str, Any]]:
        """Id → attributes of every profile. The id of a merged profile resolves to its destination
        but is not listed."""
        self.jobs.settle()
        return _ById(self._account.memory)

    @property
    def writes(self) -> Sequence[Write]:
        """Accepted writes in order, if they are logged. A bulk write is logged when its job is
        accepted."""
        return self._account.ledger.writes

    def in_flight(self, email: str) -> int:
        """The number of queued or processing jobs that contain this person."""
        return self.jobs.count_jobs_of(ProfileIn(None, {"email": email}, {}, ""))

    @property
    def overlapping_writes(self) -> int:
        """How often a write was accepted while another one of the same person waited in a job."""
        return self._account.ledger.overlaps.total()

    @property
    def overlaps(self) -> Counter[str]:
        """`overlapping_writes` by kind of the later write: "event", "single", "bulk"."""
        return self._account.ledger.overlaps

    def merge(self, source_email: str, into_email: str) -> str:
        """Merge two profiles as Klaviyo's identity resolution does; returns the remaining id.

        The source's id resolves to the destination; its address has no profile any more.
        """
        self.jobs.settle()
        memory = self._account.memory
        source, into = memory.by("email", source_email), memory.by("email", into_email)
        if source is None or into is None or source is into:
            raise ValueError("a merge needs two profiles")
        memory.merge(source, into)
        self._account.lists.merged(source, into)
        return into.id

    def list_members(self, list_id: str) -> list[str]:
        """The addresses of a list's members, in the order of joining."""
        self.jobs.settle()
        return self._addresses(self._list(list_id))

    def make_people(self, *emails: str) -> None:
        """Create profiles that exist before the connector starts."""
        memory, now = self._account.memory, self._account.now()
        for email in emails:
            given = ProfileIn(None, {"email": email}, {}, "")
            memory.update(memory.find(given) or memory.create(now), given, now)

    def make_metric(self, name: str) -> None:
        """Create a metric that exists before the connector starts."""
        memory = self._account.memory
        if name not in memory.metrics:
            memory.metrics[name] = len(memory.metrics)
            memory.metric_created.append(self._account.now())

    def make_list(self, name: str, *emails: str) -> str:
        """Create a list with these profiles, which are created if needed; returns its id."""
        self.make_people(*emails)
        new_list = self._account.lists.create(name, "single_opt_in", self._account.now())
        return self._fill(new_list, emails)

    def make_segment(self, name: str, *emails: str) -> str:
        """Create a segment with these profiles, which are created if needed; returns its id."""
        self.make_people(*emails)
        return self._fill(self._segments.create(name, self._account.now()), emails)

    def process_segment(self, id: str, *, done: bool = False) -> None:
        """Klaviyo computes the segment's members, or is `done`."""
        if done:
            self._segments.processing.discard(id)
        else:
            self._segments.processing.add(id)

    def leave_segment(self, id: str, *emails: str) -> None:
        """Remove these profiles from the segment."""
        segment = self._segments.get(id)
        if segment is None:
            raise ValueError(f"there is no segment {id}")
        for email in emails:
            segment.leave(self._profile(email))

    def join_segment(self, id: str, *emails: str, at: float | None = None) -> None:
        """Add these profiles, which are created if needed, to the segment. They joined `at`
        (seconds since 1970), by default now."""
        segment = self._segments.get(id)
        if segment is None:
            raise ValueError(f"there is no segment {id}")
        self.make_people(*emails)
        self._fill(segment, emails, at)

    def segment_ids(self) -> dict[str, str]:
        """Name → id of the segments."""
        return {segment.name: segment.id for segment in self._segments.all}

    def segment_members(self, id: str) -> list[str]:
        """The addresses of a segment's members, in the order of joining."""
        found = self._segments.get(id)
        if found is None:
            raise ValueError(f"there is no segment {id}")
        return self._addresses(found)

    def list_ids(self) -> dict[str, str]:
        """Name → id of the lists."""
        return {found.name: found.id for found in self._account.lists.all}

    def add_to_list(self, list_id: str, *emails: str) -> None:
        """Add these profiles, which are created if needed, to the list, as another program does."""
        self.make_people(*emails)
        self._fill(self._list(list_id), emails)

    def remove_from_list(self, list_id: str, *emails: str) -> None:
        """Remove these profiles from the list, as another program does."""
        for email in emails:
            self._list(list_id).leave(self._profile(email))

    def delete_list(self, list_id: str) -> None:
        self._account.lists.delete(self._list(list_id).id)

    def edit_properties(self, email: str) -> dict[str, Any]:
        """The properties of the profile with this address; changes take effect at once."""
        return self._profile(email).properties

    def remove_profile(self, email: str) -> None:
        """Remove this address from its profile, so that a look-up finds nothing."""
        self._account.memory.detach("email", self._profile(email).identifiers["email"])

    def _profile(self, email: str) -> Profile:
        self.jobs.settle()
        found = self._account.memory.by("email", email)
        if found is None:
            raise ValueError(f"no profile has the address {email}")
        return found

    def _list(self, list_id: str) -> MemberList:
        found = self._account.lists.get(list_id)
        if found is None:
            raise ValueError(f"there is no list {list_id}")
        return found

    def _addresses(self, members: MemberList) -> list[str]:
        people = (self._account.memory.by_number(number) for number in list(members.members))
        return [person.identifiers.get("email", "") for person in people]

    def _fill(self, members: MemberList, emails: Sequence[str], at: float | None = None) -> str:
        joined_at = self._account.now() if at is None else at
        for email in emails:
            members.join(self._profile(email), joined_at)
        return members.id


class _ById(Mapping[str, dict[str, Any]]):
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def __getitem__(self, id: str) -> dict[str, Any]:
        found = self._memory.by_id(id)
        if found is None:
            raise KeyError(id)
        return _attributes(found)

    def __iter__(self) -> Iterator[str]:
        return (profile.id for profile in self._memory.unmerged())

    def __len__(self) -> int:
        return len(self._memory.profiles) - self._memory.merges


def _attributes(found: Profile) -> dict[str, Any]:
    shown: dict[str, Any] = {**found.identifiers, **found.standard}
    if found.location:
        shown["location"] = dict(found.location)
    return {**shown, "properties": dict(found.properties)}
