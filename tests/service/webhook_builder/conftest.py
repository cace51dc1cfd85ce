"""A Klaviyo flow: Django's template engine renders the built body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from django.conf import settings
from django.template import Context, Engine

from connector.platforms.jericommerce import PLATFORM
from connector.service.webhook_builder import FlowTarget, Step, build

if not settings.configured:
    settings.configure(USE_I18N=False)

ENGINE = Engine(builtins=["tests.service.webhook_builder.klaviyo_filters"])

PERSON = {"email": "ana@example.com", "KlaviyoID": "01ANA", "id": "shop-7"}
EVENT = {"$event_id": "order-1", "points": 40, "product": "Blue shirt"}

TARGET = FlowTarget(
    address="https://loyalty.example.com/flows/shop",
    title="JeriCommerce",
    offers=PLATFORM.offers,
    secret="flow_secret",
    max_amount=10_000,
    repeat_window=25 * 3600,
    key_retention=400 * 86_400,
)


@pytest.fixture
def target() -> FlowTarget:
    return TARGET


def rendered(body: str, **context: Any) -> str:
    """The body as Klaviyo renders it for one person."""
    variables = {"person": PERSON, "event": EVENT, "email": PERSON["email"], **context}
    return ENGINE.from_string(body).render(Context(variables))


def sent(step: Step, **context: Any) -> dict[str, Any]:
    """The decoded body that a step sends for one person."""
    body = json.loads(rendered(build(step, TARGET).body, **context))
    if isinstance(body, list):
        [body] = body
    assert isinstance(body, Mapping)
    return dict(body)
