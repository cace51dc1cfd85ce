"""What the demo prepares for a guided tour of the console: a record that failed and an action whose
outcome is not known. Everything else to try is there anyway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from connector.net.http import client
from connector.sandbox.jericommerce.server import JeriCommerceSandbox

SOURCE = "jericommerce"
"""The connection and the sandbox that both are prepared at."""
EVENT = "Quiz completed"
MAPPING = """\
# As shipped, except that an event that is not named fails instead of being sent under its own name.
extends = "jericommerce.toml"

[events]
unknown = "dead-letter"
"""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to try: `path` is a page of the console, or of the demo itself. `value` is what has
    to be entered there."""

    title: str
    text: str
    path: str
    value: str = ""
    of_demo: bool = False


def steps(person: str) -> Sequence[Step]:
    """What to try. `person`: the address of the customer of the action."""
    return (
        Step(
            "Keep an audience as a list",
            "White Label Loyalty has an audience for each tier, such as “Gold”. Choose one and a "
            "name for the list; it is created and filled within seconds.",
            "/connections/wll/links",
        ),
        Step(
            "Fix a record that failed",
            f"The platform sent an event “{EVENT}” that the mapping does not name. Open the "
            "record, let events of this name be sent, then retry it.",
            f"/dead-letters?connection={SOURCE}&cause=M20",
        ),
        Step(
            "Decide an action whose outcome is not known",
            "A flow requested 25 points, and the platform's answer was lost. You look the customer "
            "up at the platform and find “Quiz bonus +25” in the history: it was applied.",
            "/attention",
        ),
        Step(
            "Look at one person",
            "Find a customer by e-mail address and compare the platform with Klaviyo. One to try:",
            "/people",
            person,
        ),
        Step(
            "Give points from a flow",
            "Build the webhook that a welcome flow at Klaviyo calls, and copy it.",
            f"/webhook-builder?connection={SOURCE}&preset=welcome-bonus",
        ),
        Step(
            "Add a connection",
            "A shop that is not connected yet is ready: its credentials, a place to paste the "
            "webhook's address, and what arrives at Klaviyo.",
            "/shop",
            of_demo=True,
        ),
        Step(
            "Break Klaviyo",
            "With the buttons of this page. Watch the overview: what happened, what it affects, "
            "and how it recovers without losing an event.",
            "#break",
            of_demo=True,
        ),
    )


async def prepare(platform: JeriCommerceSandbox, url: str, flow_secret: str) -> None:
    """Send the webhook and the flow call at the connector at `url`."""
    unnamed = platform.custom_event(EVENT, {"score": 9, "quiz": "Which roast are you?"})
    person = platform.people[0]
    # The points are given, and the answer is lost.
    platform.faults.add("balance/increase", "reset_after", count=1)
    action = {"email": person.email, "amount": 25, "reason": "Quiz bonus"}
    async with client(timeout=10.0) as http:
        await http.post(f"{url}/webhooks/{SOURCE}", content=unnamed.body, headers=unnamed.headers)
        await http.post(
            f"{url}/flows/{SOURCE}/balance/increase",
            content=orjson.dumps(action),
            headers={"api-key": flow_secret, "content-type": "application/json"},
        )
