"""Sandbox versions of Klaviyo and the platforms: strict emulations on loopback.

`connector demo` and `connector sandbox` run them; tests use them over real sockets. Behaviour that
no public page states is marked "guess" in the module that implements it.
"""

from __future__ import annotations

from connector.sandbox.faults import Fault, Faults
from connector.sandbox.jericommerce.people import Person
from connector.sandbox.jericommerce.server import JeriCommerceSandbox
from connector.sandbox.klaviyo.jobs import Job
from connector.sandbox.klaviyo.server import KlaviyoSandbox
from connector.sandbox.klaviyo.write_ledger import Write
from connector.sandbox.serve import Servers, serve
from connector.sandbox.traffic import Traffic, Webhook, WebhookSource
from connector.sandbox.wll.server import WllSandbox
from connector.sandbox.yotpo.server import YotpoSandbox

__all__ = [
    "Fault",
    "Faults",
    "JeriCommerceSandbox",
    "Job",
    "KlaviyoSandbox",
    "Person",
    "Servers",
    "Traffic",
    "Webhook",
    "WebhookSource",
    "WllSandbox",
    "Write",
    "YotpoSandbox",
    "serve",
]
