"""Building a webhook for a flow over the API."""

from __future__ import annotations

import json

import httpx
import pytest

from .conftest import FLOW_SECRET, ApiHarness

URL = "/api/v1/webhook-builder"
STEP = {"connection": "acme", "action": "increase", "amount": 50, "reason": "Thank you"}


async def test_a_webhook_is_built_with_its_secret_masked(viewer: httpx.AsyncClient) -> None:
    answer = await viewer.post(URL, json=STEP)
    assert answer.status_code == 200
    built = answer.json()
    assert built["url"] == "https://loyalty.example.com/flows/acme/balance/increase"
    assert built["headers"] == {"Content-Type": "application/json", "api-key": "***"}
    [sent] = json.loads(built["body"])
    assert (sent["amount"], sent["reason"]) == (50, "Thank you")
    assert built["url"] in built["curl"]
    assert "Counts once per event, however often Klaviyo repeats the call." in built["notes"]
    assert FLOW_SECRET not in answer.text


async def test_only_an_operator_sees_the_secret(
    operator: httpx.AsyncClient, viewer: httpx.AsyncClient
) -> None:
    body = {**STEP, "show_secret": True}
    refused = await viewer.post(URL, json=body)
    assert refused.status_code == 403
    assert FLOW_SECRET not in refused.text
    shown = (await operator.post(URL, json=body)).json()
    assert shown["headers"]["api-key"] == FLOW_SECRET
    assert FLOW_SECRET in shown["curl"]


async def test_a_preset_is_changed_by_what_is_given(viewer: httpx.AsyncClient) -> None:
    body = {"connection": "acme", "preset": "birthday-bonus", "amount": "70"}
    built = (await viewer.post(URL, json=body)).json()
    [sent] = json.loads(built["body"])
    assert (sent["amount"], sent["reason"], sent["once_per"]) == (70, "Happy birthday", "300d")
    assert "The flow starts with the date property birthdate, on the day." in built["notes"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"amount": "{{ event.points }}"}, "a variable amount needs an upper bound"),
        ({"reason": ""}, "points need a reason"),
        ({"preset": "unknown"}, "no preset 'unknown'"),
        ({"connection": "closed"}, "has no [connections.actions] table"),
        ({"action": "give"}, "body.action"),
        ({"amout": 5}, "body.amout"),
    ],
)
async def test_each_fault_of_a_step_is_named(
    viewer: httpx.AsyncClient, changes: dict[str, str], fault: str
) -> None:
    answer = await viewer.post(URL, json={**STEP, **changes})
    assert answer.status_code == 422
    assert any(fault in line for line in answer.json()["faults"])


async def test_an_unknown_connection_is_not_found(viewer: httpx.AsyncClient) -> None:
    answer = await viewer.post(URL, json={**STEP, "connection": "other"})
    assert answer.status_code == 404


async def test_a_stranger_builds_nothing(harness: ApiHarness) -> None:
    async with harness.client() as http:
        assert (await http.post(URL, json=STEP)).status_code == 401
