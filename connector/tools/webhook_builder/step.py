"""A webhook step of a flow as a person describes it, where it calls, and what is pasted."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from connector.actions.requests import USE_CASES, Route
from connector.config import Config, Connection
from connector.domain.actions import Action, ActionName
from connector.ports import DirectCall, Offer, Platform
from connector.tools.webhook_builder.templates import InvalidStep

CONTENT_TYPE = "Content-Type"

Trigger = Literal["metric", "list", "date", "segment"]
UseCase = Literal["reward", "refund", "redeem", "remove_earned", "expire"]


@dataclass(frozen=True, slots=True)
class Step:
    """`amount`, `reason`, `message` and `url` may hold `{{ variables }}`; an amount that does needs
    `at_most`. `trigger` is what starts the flow, `name` what the step is called in its key (made
    of the reason where it is empty), `once_per` a duration such as "300d". `event_id` is where
    the starting event has its id, as in `event.order_id`.
    """

    action: ActionName = "increase"
    amount: str = ""
    at_most: int | None = None
    reason: str = ""
    message: str = ""
    url: str = ""
    use_case: UseCase | None = None
    trigger: Trigger = "metric"
    once_per: str = ""
    name: str = ""
    event_id: str = ""

    @property
    def route(self) -> Route:
        """Where the connector takes this call, below the connection's address."""
        if self.action == "push":
            return "push"
        if self.use_case or self.action == "adjust":
            return "points/adjust"
        return "balance/increase" if self.action == "increase" else "balance/decrease"

    @property
    def adds(self) -> bool | None:
        """Whether points are added, None where the amount's own sign says it."""
        if self.use_case:
            return USE_CASES[self.use_case].sign > 0
        return {"increase": True, "decrease": False}.get(self.action)


@dataclass(frozen=True, slots=True)
class FlowTarget:
    """The connection that the flow calls: its `address` ends in its name. `offers` is what its
    platform can be asked for, `secret` what proves the flow, `max_amount` the most points of one
    adjustment. `repeats` is for how many seconds a call may be repeated, `keys_kept` for how many a
    key is remembered. `direct` makes the call to the platform itself, where it documents one."""

    address: str
    title: str
    offers: frozenset[Offer]
    secret: str
    max_amount: int
    repeat_window: float
    key_retention: float
    direct: Callable[[Action], DirectCall] | None = None

    @classmethod
    def of(cls, config: Config, connection: Connection, platform: Platform) -> FlowTarget:
        """The place that a configured connection is. Raises Unfit where it takes no flow calls."""
        if connection.actions is None:
            raise InvalidStep(
                f"connection {connection.name!r} has no [connections.actions] table: without it"
                " every flow that calls it is answered 401; write one with a secret"
            )
        direct = platform.direct
        return cls(
            address=f"{config.server.public_url.rstrip('/')}/flows/{connection.name}",
            title=platform.title,
            offers=platform.offers,
            secret=connection.actions.secret[0].get_secret_value(),
            max_amount=connection.actions.max_amount,
            repeat_window=connection.actions.dedupe_window,
            key_retention=config.retention.action_keys,
            direct=None if direct is None else partial(direct, connection.settings),
        )


@dataclass(frozen=True, slots=True)
class Webhook:
    """What is pasted into Klaviyo. `body` is a template; rendered, it is JSON. `sample` is the body
    with made-up values, `notes` what the person should know."""

    url: str
    headers: Mapping[str, str]
    body: str
    sample: str
    notes: tuple[str, ...]

    @property
    def curl(self) -> str:
        """A line for a shell that makes the call with made-up values. It is a real call."""
        headers = (f"-H {shlex.quote(f'{name}: {value}')}" for name, value in self.headers.items())
        return f"curl -i {shlex.quote(self.url)} {' '.join(headers)} -d {shlex.quote(self.sample)}"

    def masked(self) -> Webhook:
        """The same without what proves the caller: a pipe may end in a log."""
        shown = {k: v if k == CONTENT_TYPE else "***" for k, v in self.headers.items()}
        return replace(self, headers=shown)
