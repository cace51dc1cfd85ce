"""The contract of a platform's client: people, history, groups, actions, and what it offers."""

from __future__ import annotations

import re

import orjson

from connector.domain.errors import DeliveryError
from connector.domain.lanes import Millis
from connector.mapping import run_examples
from connector.ports import Member, PersonRef
from connector.testing.contracts.platform.subject import PlatformSubject
from connector.testing.contracts.platform.views import check_snapshot, walk
from connector.testing.fakes.ports import READS, with_json
from connector.testing.hostile_json import ODD, places, put_at
from connector.tools.checks import example_views


class ClientTests(PlatformSubject):
    async def test_a_person_is_read_and_the_read_covers_what_it_shows(self) -> None:
        double = self.double()
        async with self._client(double.app) as client:
            if client.reader is None:
                return
            for reads in (READS, frozenset[str]()):
                snapshot = await client.reader.read(double.known_person, reads)
                assert snapshot is not None, "the double must know Double.known_person"
                check_snapshot(snapshot)
                assert orjson.loads(orjson.dumps(snapshot.view)) == snapshot.view, "not JSON"
            assert client.reader.parallel >= 1

    async def test_an_unknown_person_reads_as_none(self) -> None:
        double = self.double()
        async with self._client(double.app) as client:
            if client.reader is None:
                return
            for ref in (double.unknown_person, PersonRef(3, None, None, b"")):
                assert await client.reader.read(ref, READS) is None

    async def test_malformed_responses_are_parsed_or_raise_delivery_errors(self) -> None:
        """Whatever JSON the platform answers, the adapter raises no other exception."""
        double = self.double()
        async with self._client(double.app) as client:
            if client.reader is None:
                return
            answers = [a for a in await self._recorded(double) if a is not None]
        for answer in answers:
            for place in [(), *places(answer)]:
                for odd in ODD:
                    app = with_json(double.app, self.faulty, put_at(answer, place, odd))
                    async with self._client(app) as client:
                        assert client.reader
                        try:
                            snapshot = await client.reader.read(double.known_person, READS)
                        except DeliveryError:
                            continue
                        if snapshot is not None:
                            check_snapshot(snapshot)

    async def test_streams_end_and_their_cursors_advance(self) -> None:
        double = self.double()
        async with self._client(double.app) as client:
            for stream in (client.people, client.changes):
                if stream is None:
                    continue
                pages = await walk(stream)
                shown = [person for page in pages for person in page.people]
                assert shown, "the double must have people to list"
                for person in shown:
                    assert person.platform_id or person.email
                    check_snapshot(person.snapshot)
                if len(pages) > 1:
                    rest = await walk(stream, pages[0].cursor)
                    assert len(rest) == len(pages) - 1, "a stream is resumed at its cursor"

    async def test_history_events_come_in_order_with_stable_ids(self) -> None:
        double = self.double()
        async with self._client(double.app) as client:
            if client.history is None:
                return
            past_events = await client.history.events(double.known_person, None)
            again = await client.history.events(double.known_person, None)
            assert [r.unique_id for r in past_events] == [r.unique_id for r in again]
            assert len({r.key for r in past_events}) == len(past_events)
            assert [r.occurred_at for r in past_events] == sorted(
                r.occurred_at for r in past_events
            )
            for record in past_events:
                assert record.unique_id.startswith(f"{self.platform.source}:")
            if past_events:
                later = Millis(past_events[-1].occurred_at + 1)
                assert not await client.history.events(double.known_person, later)

    async def test_audiences_are_scanned_to_the_end(self) -> None:
        double = self.double()
        async with self._client(double.app) as client:
            if client.audiences is None:
                return
            names = await client.audiences.names()
            assert names, "the double must have an audience"
            for audience in names:
                cursors: set[str | None] = {None}
                page = await client.audiences.members(audience, None)
                while page.more:
                    assert page.cursor not in cursors, "a cursor is repeated"
                    cursors.add(page.cursor)
                    assert len(cursors) < 1_000
                    page = await client.audiences.members(audience, page.cursor)

    async def test_each_member_gets_one_result(self) -> None:
        double = self.double()
        async with self._client(double.app) as client:
            if client.members is None:
                return
            known, unknown = (
                Member(platform_id=ref.platform_id, email=ref.email)
                for ref in (double.known_person, double.unknown_person)
            )
            changes = [(known, True), (unknown, True), (known, False)][: client.members.size]
            results = await client.members.update(double.target, changes)
            assert len(results) == len(changes)
            assert results[0].status != "refused"

    async def test_an_applied_action_is_never_reported_absent(self) -> None:
        double = self.double()
        async with self._client(double.app) as client:
            if client.actions is None:
                return
            await client.actions.apply(double.sample_action())
            assert await client.actions.look_up(double.sample_action()) in (
                "applied",
                "unknowable",
            )

    async def test_offers_and_implemented_parts_match(self) -> None:
        platform = self._configured_platform
        parts: dict[str, bool] = {"events": platform.webhook is not None}
        if platform.open is None:
            assert platform.offers <= {"events"}
            return
        async with self._client(self.double().app) as client:
            parts["events"] |= client.changes is not None or client.history is not None
            parts |= {
                "profiles": client.reader is not None,
                "people": client.people is not None,
                "audiences": client.audiences is not None,
                "segments": client.members is not None,
            }
            acts = bool(platform.offers & {"increase", "decrease", "adjust", "push"})
            assert acts == (client.actions is not None)
        for offer, implemented in parts.items():
            assert (offer in platform.offers) == implemented, f"offers and parts differ: {offer}"

    async def test_every_quota_has_a_name_that_people_can_read(self) -> None:
        """It is shown in `status` and in metrics: a route template, or words."""
        async with self._client(self.double().app) as client:
            for part in (client.reader, client.members, client.actions):
                if part is not None:
                    assert re.fullmatch(r"[A-Z][\w{}/ .-]{2,60}", part.endpoint), part.endpoint
                    assert part.quota.reserve(part.endpoint, 1).count == 1

    def test_the_mapping_examples_pass(self) -> None:
        folder = self.mappings / "examples" / self.platform.source
        view, person = self._configured_platform.event_view, self._configured_platform.person_view
        faults = run_examples(folder, view, person, example_views(self.platform))
        assert not faults, "\n".join(faults)
