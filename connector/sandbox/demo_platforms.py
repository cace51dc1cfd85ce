"""The platforms that `connector demo` and `connector sandbox` show: to add one, add its entry."""

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
    """A platform, emulated. Its people have an `email` and a `balance`."""

    @property
    def app(self) -> ASGIApp: ...
    @property
    def people(self) -> Sequence[Any]: ...

    def state(self) -> dict[str, Any]:
        """Counters, `throttled` and `violations` among them."""
        ...


@dataclass(frozen=True, slots=True)
class DemoPlatform:
    """A platform to show: `settings` are the lines below [connections.settings], where {url} is the
    double's address. `balance` is the profile field that holds a person's points; of every event
    that is sent, `share` parts are this platform's."""

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
rate_per_second = 100    # the sandbox has no limit; JeriCommerce publishes none, the default is 5
""",
        balance="balance",
        share=16,
    ),
    # Few events: each makes somebody be read, and Yotpo answers 5 requests a second.
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
