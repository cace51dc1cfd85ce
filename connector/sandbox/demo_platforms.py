"""The platforms of `connector demo` and `connector sandbox`. To add one, add an entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import ASGIApp

from connector.sandbox.jericommerce.server import JeriCommerceSandbox
from connector.sandbox.traffic import WebhookSource
from connector.sandbox.wll.server import WllSandbox
from connector.sandbox.yotpo.server import YotpoSandbox


class PlatformSandbox(WebhookSource, Protocol):
    """The sandbox of a platform. Its people have an `email` and a `balance`."""

    @property
    def app(self) -> ASGIApp: ...
    @property
    def people(self) -> Sequence[Any]: ...

    def state(self) -> dict[str, Any]:
        """Counters, including `throttled` and `violations`."""
        ...


@dataclass(frozen=True, slots=True)
class DemoPlatform:
    """A platform of the demo. `settings`: the lines of [connections.settings], where {url} is the
    sandbox's URL. `balance`: the profile field with a person's points. `share`: its share of the
    traffic, relative to the other platforms' shares."""

    source: str
    title: str
    make: Callable[[], PlatformSandbox]
    settings: str
    balance: str
    share: float


DEMO_PLATFORMS = (
    DemoPlatform(
        "jericommerce",
        "JeriCommerce",
        JeriCommerceSandbox,
        """\
base_url = "{url}"
program = "demo"
api_key = "jeri_sandbox"
webhook_secret = "jeri_webhook_secret"
rate_per_second = 100    # the sandbox has no limit; the default is 5, JeriCommerce publishes none
""",
        balance="balance",
        share=16,
    ),
    # Few events: each causes a read of a person, and Yotpo allows 5 requests per second.
    DemoPlatform(
        "yotpo",
        "Yotpo",
        YotpoSandbox,
        """\
base_url = "{url}"
guid = "guid-sandbox"
api_key = "yotpo_sandbox"
webhook_secret = "yotpo_webhook_secret"
""",
        balance="yotpo_balance",
        share=2,
    ),
    DemoPlatform(
        "wll",
        "White Label Loyalty",
        WllSandbox,
        """\
base_url = "{url}/v1"
auth_url = "{url}/oauth/token"
api_key = "wll_sandbox"
client_id = "wll_client"
client_secret = "wll_client_secret"
webhook_secret = "wll_webhook_secret"
points_event_type = "FLOW_POINTS"
points_event_secret = "wll_points_secret"
join_event = "AUDIENCE_JOINED"
leave_event = "AUDIENCE_LEFT"
""",
        balance="wll_balance",
        share=2,
    ),
)
