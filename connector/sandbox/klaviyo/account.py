"""The state of one Klaviyo account, which its endpoints share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from connector.sandbox.klaviyo.errors import Refused, errors
from connector.sandbox.klaviyo.flows import Flows
from connector.sandbox.klaviyo.jobs import Jobs
from connector.sandbox.klaviyo.lists import Lists
from connector.sandbox.klaviyo.rules import MAX_BYTES, Violation
from connector.sandbox.klaviyo.state import Memory
from connector.sandbox.klaviyo.write_ledger import Ledger


@dataclass(frozen=True, slots=True)
class AccountState:
    """The data of an account. `violations` counts broken rules by name."""

    memory: Memory
    ledger: Ledger
    lists: Lists
    jobs: Jobs
    violations: Counter[str]
    now: Callable[[], float]
    flows: Flows

    def load(self, body: bytes, max_bytes: int = MAX_BYTES) -> Any:
        """Parse a JSON body of at most `max_bytes`. Raises Refused (413, 400)."""
        if len(body) > max_bytes:
            self.violations["payload_too_large"] += 1
            size = "5MB" if max_bytes == MAX_BYTES else "100KB"
            problem = (f"The payload is larger than {size}.", {"pointer": "/data"})
            raise Refused(errors(413, [problem]))
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            self.violations["json"] += 1
            problem = ("Malformed request.", {"pointer": "/data"})
            raise Refused(errors(400, [problem], code="parse_error")) from None

    def check(self, found: Sequence[Violation], *, first: bool = False) -> None:
        """Raise Refused (400) if there are violations; it names all or only the `first`."""
        if found:
            self.violations.update(violation.name for violation in found)
            named = found[:1] if first else found
            raise Refused(errors(400, [(v.detail, {"pointer": v.pointer}) for v in named]))
