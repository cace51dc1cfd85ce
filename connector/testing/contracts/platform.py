"""The contract of every platform, as a test suite that an adapter runs in a few lines.

    SETTINGS = {"base_url": "http://127.0.0.1", "api_key": "k-123", "webhook_secret": "s-456"}
    REFUSED = {"base_url": "no address"}

    class TestAcme(PlatformContract):
        platform = PLATFORM
        settings = SETTINGS
        refused = REFUSED
        mappings = Path("mappings")

        def sign(self, delivery, key):
            return replace(delivery, secret=key)

        def double(self):
            known_person = PersonRef(1, "7", "ana@example.com", b"")
            return Double(acme_app(), known_person=known_person)

Deliveries are the records of the platform's mapping examples. Needs pytest, pytest-asyncio in auto
mode and Hypothesis.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import (
    AsyncIterator,
    Callable,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import tomli_w
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from connector.config import PlatformSettings, load
from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    ConfigError,
    DeliveryError,
    Malformed,
    Rejected,
    RetryLater,
    Unauthorised,
)
from connector.domain.lanes import Millis
from connector.mapping import VIEW_PATHS, run_examples
from connector.mapping.vocabulary import OPEN_PATHS
from connector.ports import Client, Member, PersonRef, PersonSnapshot, Platform, Stream, Webhook
from connector.testing.fakes.ports import (
    READS,
    App,
    AutoAdvancingClock,
    Double,
    WebhookDelivery,
    calls,
    make_kit,
    outcome,
    with_json,
    with_response,
)
from connector.testing.hostile_json import JSON, ODD, decoded, encoded, places, put_at, without
from connector.tools.checks import example_views

__all__ = [
    "READS",
    "AutoAdvancingClock",
    "Double",
    "PlatformContract",
    "WebhookDelivery",
    "make_kit",
]


class PlatformContract:
    """Subclass it and set the attributes that have no value here.

    `settings` are valid and complete, with every address at 127.0.0.1; `refused` maps a setting to
    an invalid value; `mappings` is the folder with the mapping files and `examples/`.
    `secret_setting` names the setting that holds the webhook's secret.
    """

    platform: Platform
    settings: Mapping[str, Any]
    refused: Mapping[str, Any]
    mappings: Path
    secret_setting = "webhook_secret"
    examples_of_hypothesis = 60

    def sign(self, delivery: WebhookDelivery, key: str) -> WebhookDelivery:
        """The delivery as a sender with this secret sends it."""
        raise NotImplementedError

    def double(self) -> Double:
        """A new emulation."""
        raise NotImplementedError

    def faulty(self, path: str) -> bool:
        """Whether the simulated faults apply to this path; not to the one that returns tokens."""
        return True

    # ── settings ─────────────────────────────────────────────────────────────────────────────────

    def test_settings_are_loaded_from_a_file(self, tmp_path: Path) -> None:
        model = self._load(tmp_path, self.settings)
        assert isinstance(model, self.platform.settings)
        assert isinstance(model, PlatformSettings), "a settings model extends PlatformSettings"

    def test_an_invalid_setting_is_named_in_the_error(self, tmp_path: Path) -> None:
        assert self.refused, "name at least one setting and an invalid value"
        for name, value in self.refused.items():
            with pytest.raises(ConfigError) as caught:
                self._load(tmp_path, {**self.settings, name: value})
            assert any(f".settings.{name}" in fault for fault in caught.value.faults), (
                f"{name} = {value!r}: no fault names it: {caught.value.faults}"
            )
            self._assert_no_secrets(str(caught.value))

    def test_an_unknown_setting_is_rejected(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"settings\.no_such_setting"):
            self._load(tmp_path, {**self.settings, "no_such_setting": "x"})

    def test_secrets_are_hidden(self) -> None:
        model = self._model()
        secrets = _secrets(model)
        for text in (repr(model), str(model), str(model.model_dump())):
            assert not [secret for secret in secrets if secret in text]
        for name in self.platform.settings.model_fields:
            if re.search(r"(^|_)(secret|key|token|password)$", name):
                given = self.settings.get(name)
                assert given is None or _texts(given) <= secrets, f"{name} must be a SecretStr"

    # ── the webhook ──────────────────────────────────────────────────────────────────────────────

    def test_a_request_with_the_secret_is_authorized(self) -> None:
        webhook = self._webhook()
        for delivery in self._deliveries():
            signed = self.sign(delivery, self._key())
            webhook.verify(signed.headers, signed.body, signed.secret)

    def test_a_request_without_the_secret_is_rejected(self) -> None:
        webhook, key = self._webhook(), self._key()
        for delivery in self._deliveries():
            for forged in (
                WebhookDelivery(delivery.headers, delivery.body),
                WebhookDelivery(delivery.headers, delivery.body, ""),
                *(
                    self.sign(delivery, wrong)
                    for wrong in ("", " ", key + "x", key[:-1], "ñ" + key)
                ),
            ):
                with pytest.raises(Unauthorised) as caught:
                    webhook.verify(forged.headers, forged.body, forged.secret)
                self._assert_no_secrets(str(caught.value))

    @pytest.mark.parametrize("empty", [[], "", [""], " ", [" ", "\n"]])
    def test_an_empty_secret_authorizes_no_request(self, empty: Any) -> None:
        webhook = self._webhook({self.secret_setting: empty})
        for delivery in self._deliveries():
            for key in ("", " ", "\n", self._key()):
                signed = self.sign(delivery, key)
                with pytest.raises(Unauthorised):
                    webhook.verify(signed.headers, signed.body, signed.secret)

    def test_during_rotation_both_secrets_are_valid(self) -> None:
        webhook = self._webhook({self.secret_setting: ["the-new-one", self._key()]})
        [delivery, *_] = self._deliveries()
        for key in ("the-new-one", self._key()):
            signed = self.sign(delivery, key)
            webhook.verify(signed.headers, signed.body, signed.secret)

    def test_no_random_text_is_accepted_as_a_secret(self) -> None:
        webhook = self._webhook()
        [delivery, *_] = self._deliveries()
        proofs = [
            name
            for name, value in self.sign(delivery, self._key()).headers.items()
            if delivery.headers.get(name) != value
        ]

        @self._with_examples(given=st.text(max_size=80))
        def refused(given: str) -> None:
            headers = {**delivery.headers, **dict.fromkeys(proofs, given)}
            with pytest.raises(Unauthorised):
                webhook.verify(headers, delivery.body, given)

        refused()

    def test_an_unreadable_body_raises_malformed_and_nothing_else(self) -> None:
        webhook, view = self._webhook(), self._configured_platform.event_view
        deliveries = self._deliveries()

        @self._with_examples(
            at=st.integers(0, len(deliveries) - 1), body=st.binary(max_size=60) | JSON
        )
        def any_body(at: int, body: Any) -> None:
            self._parse_or_reject(webhook, replace(deliveries[at], body=encoded(body)))

        @self._with_examples(at=st.integers(0, len(deliveries) - 1), data=st.data())
        def changed_body(at: int, data: st.DataObject) -> None:
            delivery = deliveries[at]
            body = orjson.loads(delivery.body)
            spots = list(places(body))
            place = data.draw(st.sampled_from(spots)) if spots else ()
            changed = put_at(body, place, data.draw(JSON))
            for record in self._parse_or_reject(webhook, replace(delivery, body=encoded(changed))):
                event = orjson.loads(record.data)
                _check_view(view(record.name, record.occurred_at, event, record.email), event=True)

        for delivery in deliveries:
            body = orjson.loads(delivery.body)
            for place in places(body):
                for odd in ODD:
                    one = replace(delivery, body=encoded(put_at(body, place, odd)))
                    self._parse_or_reject(webhook, one)
        any_body()
        changed_body()

    def test_the_same_delivery_is_deduplicated(self) -> None:
        webhook = self._webhook()
        seen: dict[str, bytes] = {}
        for delivery in self._deliveries():
            first = webhook.parse(delivery.headers, delivery.body)
            again = self._webhook().parse(delivery.headers, bytes(delivery.body))
            assert first, "an example's record must be a delivery with at least one event"
            assert [(r.key, r.unique_id) for r in first] == [(r.key, r.unique_id) for r in again]
            for record in first:
                assert record.unique_id.startswith(f"{self.platform.source}:")
                assert len(self.platform.source) + 1 < len(record.unique_id) <= 255
                if record.email is not None:
                    assert record.email == record.email.strip().lower() != ""
                seen.setdefault(record.unique_id, record.data)

    # ── the views ────────────────────────────────────────────────────────────────────────────────

    def test_an_event_view_is_pure_and_has_documented_fields(self) -> None:
        for delivery in self._deliveries():
            for record in self._webhook().parse(delivery.headers, delivery.body):
                data = orjson.loads(record.data)
                before = copy.deepcopy(data)
                views = [
                    self._configured_platform.event_view(
                        record.name, record.occurred_at, data, record.email
                    )
                    for _ in range(2)
                ]
                assert data == before, "a view must not change its arguments"
                assert views[0] == views[1]
                _check_view(views[0], event=True)
                time = views[0]["event"].get("time")
                assert isinstance(time, str), "event.time is missing"
                assert abs(datetime.fromisoformat(time).timestamp() * 1000 - record.occurred_at) < (
                    1_000
                ), "event.time is not the record's"
                assert views[0]["event"]["name"] == record.name

    def test_a_person_view_is_pure_and_total_and_has_documented_fields(self) -> None:
        view = self._configured_platform.person_view
        customers = [e["customer"] for e in self._examples() if "customer" in e]
        if view is None:
            assert not customers
            return
        assert customers, "no mapping example shows a person: give one a `customer`"
        for customer in customers:
            before = copy.deepcopy(customer)
            assert view(customer, {}) == view(customer, {})
            assert customer == before
            _check_view(view(customer, {}), event=False)
            for place in places(customer):
                for odd in ODD:
                    _check_view(view(put_at(customer, place, odd), {}), event=False)
                _check_view(view(without(customer, place), {}), event=False)

    # ── one person ───────────────────────────────────────────────────────────────────────────────

    async def test_a_person_is_read_and_the_read_covers_what_it_shows(self) -> None:
        double = self.double()
        async with self._client(double.app) as client:
            if client.reader is None:
                return
            for reads in (READS, frozenset[str]()):
                snapshot = await client.reader.read(double.known_person, reads)
                assert snapshot is not None, "the double must know Double.known_person"
                _check_snapshot(snapshot)
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
                            _check_snapshot(snapshot)

    # ── faults ───────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize(
        ("status", "kinds"),
        [
            (401, (Blocked,)),
            (429, (RetryLater,)),
            (500, (AmbiguousError,)),
            (502, (AmbiguousError,)),
            (503, (RetryLater,)),
            (400, (Rejected,)),
            (404, (Blocked, Rejected)),
        ],
    )
    async def test_a_status_maps_to_the_same_error_on_every_platform(
        self, status: int, kinds: tuple[type[DeliveryError], ...]
    ) -> None:
        double = self.double()
        headers = [(b"retry-after", b"7"), (b"content-type", b"application/json")]
        app = with_response(double.app, self.faulty, status, headers, b'{"message": "no"}')
        async with self._client(app) as client:
            for name, call in calls(client, double):
                answer, error = await outcome(call)
                if error is None:
                    # A read finds nothing; a write must not report that it was applied.
                    assert status == 404, f"{name}: {status} was taken for a success"
                    refused = name == "members" and {r.status for r in answer} == {"refused"}
                    assert refused or not answer, f"{name}: a 404 was taken for a success"
                    continue
                assert isinstance(error, kinds), f"{name}: {status} is {type(error).__name__}"
                self._assert_no_secrets(f"{error} {error!r}", double)
                if isinstance(error, RetryLater) and status == 429:
                    assert error.after >= 7, f"{name}: Retry-After is ignored"
                if isinstance(error, Blocked) and status == 401:
                    assert error.scope == "account", f"{name}: a 401 is about the key"

    @pytest.mark.parametrize(
        ("broken", "kind"),
        [
            (TimeoutError, AmbiguousError),
            (ConnectionResetError, AmbiguousError),
            (ConnectionRefusedError, RetryLater),
        ],
    )
    async def test_a_broken_connection_is_ambiguous_or_was_never_made(
        self, broken: type[Exception], kind: type[DeliveryError]
    ) -> None:
        double = self.double()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if not self.faulty(scope["path"]):
                return await double.app(scope, receive, send)
            raise broken

        async with self._client(app) as client:
            for name, call in calls(client, double):
                with pytest.raises(kind) as caught:
                    await call()
                assert caught.value, name
                self._assert_no_secrets(f"{caught.value} {caught.value!r}", double)

    async def test_a_response_that_is_not_json_is_never_trusted(self) -> None:
        double = self.double()
        app = with_response(double.app, self.faulty, 200, [], b"<html>")
        async with self._client(app) as client:
            for name, call in calls(client, double):
                if name == "members":
                    continue  # a status may be all that a platform answers
                with pytest.raises(DeliveryError):
                    await call()

    async def test_a_check_reports_the_fault_and_raises_nothing(self) -> None:
        double = self.double()
        async with self._client(double.app) as client:
            assert not [c for c in await client.check() if c.level == "fault"]
        app = with_response(double.app, self.faulty, 401, [], b"{}")
        async with self._client(app) as client:
            if not calls(client, double):
                return
            found = await client.check()
            assert any(c.level == "fault" and c.problem for c in found)
            self._assert_no_secrets(str(found))

    # ── all people ───────────────────────────────────────────────────────────────────────────────

    async def test_streams_end_and_their_cursors_advance(self) -> None:
        double = self.double()
        async with self._client(double.app) as client:
            for stream in (client.people, client.changes):
                if stream is None:
                    continue
                pages = await _walk(stream)
                shown = [person for page in pages for person in page.people]
                assert shown, "the double must have people to list"
                for person in shown:
                    assert person.platform_id or person.email
                    _check_snapshot(person.snapshot)
                if len(pages) > 1:
                    rest = await _walk(stream, pages[0].cursor)
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

    # ── what is declared ─────────────────────────────────────────────────────────────────────────

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

    # ── helpers ──────────────────────────────────────────────────────────────────────────────────

    def _with_examples(self, **what: Any) -> Callable[[Callable[..., None]], Callable[[], None]]:
        def wrap(function: Callable[..., None]) -> Callable[[], None]:
            configured = hypothesis_settings(
                max_examples=self.examples_of_hypothesis, deadline=None, database=None
            )
            return cast(Callable[[], None], configured(given(**what)(function)))

        return wrap

    @property
    def _configured_platform(self) -> Platform:
        for_settings = self.platform.for_settings
        return for_settings(self._model()) if for_settings else self.platform

    def _model(self, changes: Mapping[str, Any] | None = None) -> Any:
        return self.platform.settings.model_validate({**self.settings, **(changes or {})})

    def _load(self, folder: Path, settings: Mapping[str, Any]) -> Any:
        """The settings, loaded as a connector.toml is."""
        connection = {"name": "acme", "source": self.platform.source, "enabled": False}
        file = folder / "connector.toml"
        file.write_text(tomli_w.dumps({"connections": [{**connection, "settings": settings}]}))
        models = {self.platform.source: self.platform.settings}
        return load(file, environ={}, settings_models=models).connections[0].settings

    def _webhook(self, changes: Mapping[str, Any] | None = None) -> Webhook:
        if self.platform.webhook is None:
            pytest.skip("the platform has no webhooks")
        return self.platform.webhook(self._model(changes))

    def _key(self) -> str:
        given = self.settings[self.secret_setting]
        return str(given if isinstance(given, str) else given[0])

    def _examples(self) -> list[dict[str, Any]]:
        folder = self.mappings / "examples" / self.platform.source
        return [json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))]

    def _deliveries(self) -> list[WebhookDelivery]:
        found = [
            WebhookDelivery(
                dict(self._configured_platform.name_header(e["name"])), orjson.dumps(e["record"])
            )
            for e in self._examples()
            if "record" in e
        ]
        assert found, "no mapping example shows an event: give one a `name` and a `record`"
        return found

    def _parse_or_reject(self, webhook: Webhook, delivery: WebhookDelivery) -> Sequence[Any]:
        records: Sequence[Any] = ()
        refused = ""
        try:
            records = webhook.parse(delivery.headers, delivery.body)
        except Malformed as error:
            refused = error.detail
        assert "@" not in refused, "a refusal quotes an address"
        for record in records:
            assert record.key
            assert 1 <= len(record.unique_id) <= 255
            assert "\0" not in record.key + record.name + (record.person or "")
        return records

    @asynccontextmanager
    async def _client(self, app: App) -> AsyncIterator[Client]:
        if self.platform.open is None:
            pytest.skip("the platform has no API")
        client = await self.platform.open(self._model(), make_kit(app))
        try:
            yield client
        finally:
            await client.aclose()

    async def _recorded(self, double: Double) -> list[Any]:
        """The JSON that the double returns when its known person is read."""
        found: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            body = bytearray()

            async def keep(message: MutableMapping[str, Any]) -> None:
                body.extend(message.get("body", b""))
                await send(message)

            await double.app(scope, receive, keep)
            if self.faulty(scope["path"]):
                found.append(decoded(bytes(body)))

        async with self._client(app) as client:
            assert client.reader
            await client.reader.read(double.known_person, READS)
        return found

    def _assert_no_secrets(self, text: str, double: Double | None = None) -> None:
        for secret in _secrets(self._model()):
            assert secret not in text, "an error quotes a secret"
        if double is not None and double.known_person.email:
            assert double.known_person.email not in text, "an error quotes an address"


# ── views and snapshots ──────────────────────────────────────────────────────────────────────────

_ROOTS = {word.partition(".")[0] for word in VIEW_PATHS}
_GROUPS = ("tier", "next_tier", "next_reward", "event")


def _check_view(view: Mapping[str, Any], *, event: bool) -> None:
    assert set(view) <= _ROOTS, f"undocumented fields: {set(view) - _ROOTS}"
    for group in _GROUPS:
        if group in view:
            assert isinstance(view[group], dict)
            known = {w.partition(".")[2] for w in VIEW_PATHS if w.startswith(f"{group}.")}
            assert set(view[group]) <= known, f"undocumented fields in {group}"
    assert event == ("event" in view)
    if event:
        assert isinstance(view["event"].get("name"), str)
    assert "raw" in view, "raw must hold the platform's own object"


def _check_snapshot(snapshot: PersonSnapshot) -> None:
    for word in VIEW_PATHS:
        value: Any = snapshot.view
        for part in word.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None and not word.startswith("event"):
            parts = word.split(".")
            above = {".".join(parts[: n + 1]) for n in range(len(parts))}
            if word in OPEN_PATHS and snapshot.covers >= {f"{word}.{key}" for key in value}:
                continue  # a list that leaves some keys out covers those it has
            assert above & snapshot.covers, f"the view has {word}, which the read does not cover"


async def _walk(stream: Stream, cursor: str | None = None) -> list[Any]:
    pages, cursors = [], {cursor}
    while True:
        page = await stream.page(cursor, READS, backfill=True)
        pages.append(page)
        if not page.more:
            return pages
        assert page.cursor not in cursors, "a cursor is repeated"
        assert len(pages) < 1_000, "a stream does not end"
        cursor = page.cursor
        cursors.add(cursor)


def _texts(value: Any) -> set[str]:
    return {value} if isinstance(value, str) else {str(item) for item in value}


def _secrets(model: BaseModel) -> set[str]:
    """Every secret of the settings that is not empty."""
    found: set[str] = set()
    for value in dict(model).values():
        items = value.values() if isinstance(value, Mapping) else value
        for item in items if isinstance(value, Mapping | tuple | list) else (value,):
            if isinstance(item, SecretStr) and item.get_secret_value().strip():
                found.add(item.get_secret_value())
            elif isinstance(item, BaseModel):
                found |= _secrets(item)
    return found
