"""Direct calls to the platform: its documented body, and a warning."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest

from connector.platforms import yotpo
from connector.platforms.jericommerce import PLATFORM
from connector.sandbox import JeriCommerceSandbox, YotpoSandbox
from connector.service.webhook_builder import FlowTarget, InvalidStep, Step, build_direct

from .conftest import TARGET, rendered

SETTINGS = PLATFORM.settings.model_validate(
    {"base_url": "http://sandbox", "program": "demo", "api_key": "jeri_sandbox"}
)
assert PLATFORM.direct is not None
DIRECT = replace(TARGET, direct=partial(PLATFORM.direct, SETTINGS))
YOTPO_SETTINGS = yotpo.PLATFORM.settings.model_validate(
    {"base_url": "http://sandbox", "guid": "guid-sandbox", "api_key": "yotpo_sandbox"}
)
assert yotpo.PLATFORM.direct is not None
YOTPO = replace(
    TARGET,
    title="Yotpo",
    offers=yotpo.PLATFORM.offers,
    direct=partial(yotpo.PLATFORM.direct, YOTPO_SETTINGS),
)


def faults(step: Step, target: FlowTarget = DIRECT) -> str:
    with pytest.raises(InvalidStep) as caught:
        build_direct(step, target)
    return "\n".join(caught.value.faults)


async def post(step: Step, platform: Any, target: FlowTarget = DIRECT, **context: Any) -> int:
    made = build_direct(step, target)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(platform.app)) as client:
        body = rendered(made.body, **context).encode()
        answer = await client.post(made.url, content=body, headers=dict(made.headers))
    return answer.status_code


@pytest.mark.parametrize(
    ("step", "change"),
    [
        (Step("increase", amount="30", reason="Welcome"), 30),
        (Step("decrease", amount="30", reason="Welcome"), -30),
        (Step("adjust", amount="-30", reason="Welcome"), -30),
        (Step("decrease", amount="30", reason="Welcome", use_case="expire"), -30),
        (Step("adjust", amount="30", reason="Welcome", use_case="redeem"), -30),
    ],
)
async def test_jericommerce_accepts_the_rendered_request(step: Step, change: int) -> None:
    platform = JeriCommerceSandbox(people=1)
    person = platform.add("ana@example.com", balance=100)
    assert await post(step, platform) == 201
    assert person.balance == 100 + change
    assert platform.adjusted("Welcome") == 1
    assert not platform.violations


async def test_a_push_matches_the_preview_documentation() -> None:
    platform = JeriCommerceSandbox(people=1)
    step = Step("push", message="Hello {{ person.first_name }}", url="https://shop.example")
    person = {"id": platform.people[0].id, "first_name": 'Ana "A"'}
    assert await post(step, platform, person=person) == 201
    assert platform.pushes[0].message == 'Hello Ana "A"'


@pytest.mark.parametrize(
    ("step", "change", "earned"),
    [
        (Step("increase", amount="30", reason="Welcome"), 30, 30),
        (Step("decrease", amount="30", reason="Welcome"), -30, 0),
        (Step("adjust", amount="-30", reason="Welcome"), -30, 0),
        (Step("adjust", amount="30", reason="Welcome", use_case="reward"), 30, 30),
        (Step("adjust", amount="30", reason="Welcome", use_case="refund"), 30, 0),
        (Step("adjust", amount="30", reason="Welcome", use_case="redeem"), -30, 0),
        (Step("adjust", amount="30", reason="Welcome", use_case="remove_earned"), -30, -30),
        (Step("adjust", amount="30", reason="Welcome", use_case="expire"), -30, 0),
    ],
)
async def test_yotpo_accepts_the_rendered_request(step: Step, change: int, earned: int) -> None:
    platform = YotpoSandbox(people=1)
    customer = platform.add("ana@example.com", balance=100, earned=200)
    assert await post(step, platform, YOTPO) == 200
    assert (customer.balance, customer.earned) == (100 + change, 200 + earned)
    assert platform.adjusted("Welcome") == 1
    assert not platform.violations


def test_a_direct_call_has_no_idempotency_key_and_warns_of_duplicates() -> None:
    made = build_direct(Step("increase", amount="30", reason="x", once_per="7d"), DIRECT)
    assert made.headers["api-key"] == "jeri_sandbox"
    assert json.loads(rendered(made.body))[0].keys() == {"email", "amount", "reason"}
    assert "Not deduplicated" in made.notes[0]
    assert "jeri_sandbox" in made.curl


@pytest.mark.parametrize(
    ("step", "target", "expected_text"),
    [
        (
            Step("increase", amount="{{ event.x }}", at_most=5, reason="x"),
            DIRECT,
            "the amount must be a number",
        ),
        (Step("push", message="x"), YOTPO, "Yotpo does not offer push; it offers: increase"),
        (Step("increase", amount="5"), DIRECT, "points need a reason"),
        (
            Step("increase", amount="5", reason="x"),
            TARGET,
            "JeriCommerce documents no API call for flows",
        ),
    ],
)
def test_an_action_the_platform_does_not_support_is_refused(
    step: Step, target: FlowTarget, expected_text: str
) -> None:
    assert expected_text in faults(step, target)


def test_a_platform_specific_reason_is_passed_through() -> None:
    def never(action: object) -> Any:
        raise ValueError("only with a programme")

    assert faults(Step("increase", amount="5", reason="x"), replace(TARGET, direct=never)) == (
        "only with a programme"
    )
