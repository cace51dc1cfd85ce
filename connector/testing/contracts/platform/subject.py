"""The platform under test: what its test sets, and how the tests use it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import tomli_w
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from pydantic import BaseModel, SecretStr

from connector.config import load
from connector.domain.errors import Malformed
from connector.ports import Client, Platform, Webhook
from connector.testing.fakes.ports import READS, App, Double, WebhookDelivery, make_kit
from connector.testing.hostile_json import decoded


class PlatformSubject:
    """The attributes that a subclass sets, and what the tests share.

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
        for secret in secret_values(self._model()):
            assert secret not in text, "an error quotes a secret"
        if double is not None and double.known_person.email:
            assert double.known_person.email not in text, "an error quotes an address"


def text_values(value: Any) -> set[str]:
    return {value} if isinstance(value, str) else {str(item) for item in value}


def secret_values(model: BaseModel) -> set[str]:
    """Every secret of the settings that is not empty."""
    found: set[str] = set()
    for value in dict(model).values():
        items = value.values() if isinstance(value, Mapping) else value
        for item in items if isinstance(value, Mapping | tuple | list) else (value,):
            if isinstance(item, SecretStr) and item.get_secret_value().strip():
                found.add(item.get_secret_value())
            elif isinstance(item, BaseModel):
                found |= secret_values(item)
    return found
