"""The contract of a platform's webhook and views."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
import pytest
from hypothesis import strategies as st

from connector.domain.errors import Unauthorised
from connector.testing.contracts.platform.subject import PlatformSubject
from connector.testing.contracts.platform.views import check_view
from connector.testing.fakes.ports import WebhookDelivery
from connector.testing.hostile_json import JSON, ODD, encoded, places, put_at, without


class WebhookTests(PlatformSubject):
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
                check_view(view(record.name, record.occurred_at, event, record.email), event=True)

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
                check_view(views[0], event=True)
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
            check_view(view(customer, {}), event=False)
            for place in places(customer):
                for odd in ODD:
                    check_view(view(put_at(customer, place, odd), {}), event=False)
                check_view(view(without(customer, place), {}), event=False)
