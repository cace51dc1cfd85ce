"""A webhook step of a flow, the connection that it calls, and the finished webhook."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from connector.actions.requests import USE_CASES, Route
from connector.config import Config, Connection
from connector.domain.actions import Action, ActionName
from connector.mapping import CompiledMapping
from connector.ports import DirectCall, Offer, Platform
from connector.service.webhook_builder.templates import InvalidStep

CONTENT_TYPE = "Content-Type"

Trigger = Literal["metric", "list", "date", "segment"]
UseCase = Literal["reward", "refund", "redeem", "remove_earned", "expire"]


@dataclass(frozen=True, slots=True)
class Step:
    """`amount`, `reason`, `message` and `url` may contain `{{ variables }}`; a variable amount
    needs `at_most`. `trigger`: what starts the flow. `name`: the step's name in its key (by default
    from the reason). `once_per`: a duration such as "300d". `event_id`: the path of the starting
    event's id, such as `event.order_id`.
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
        """The connector's route for this call, relative to the connection's URL."""
        if self.action == "push":
            return "push"
        if self.use_case or self.action == "adjust":
            return "points/adjust"
        return "balance/increase" if self.action == "increase" else "balance/decrease"

    @property
    def adds(self) -> bool | None:
        """Whether points are added; None if the sign of the amount decides."""
        if self.use_case:
            return USE_CASES[self.use_case].sign > 0
        return {"increase": True, "decrease": False}.get(self.action)


@dataclass(frozen=True, slots=True)
class FlowTarget:
    """The connection that the flow calls. `address`: URL that ends in the connection's name.
    `offers`: what its platform offers. `secret`: the flow's api-key. `max_amount`: the most points
    of one adjustment. `repeat_window`: seconds in which a call may be repeated. `key_retention`:
    seconds that a key is kept. `direct`: makes the platform's own API call, if it documents one.
    `birthdate`: the property at Klaviyo that has the birth date, if the mapping writes one.
    `actions_lack`: the settings that are missing for points and pushes. `person_note`: how the
    platform finds the person."""

    address: str
    title: str
    offers: frozenset[Offer]
    secret: str
    max_amount: int
    repeat_window: float
    key_retention: float
    direct: Callable[[Action], DirectCall] | None = None
    birthdate: str = ""
    actions_lack: str = ""
    person_note: str = ""

    @classmethod
    def of(
        cls,
        config: Config,
        connection: Connection,
        platform: Platform,
        mapping: CompiledMapping | None = None,
    ) -> FlowTarget:
        """The target of a configured connection. Raises InvalidStep if it accepts no flow calls."""
        if connection.actions is None:
            raise InvalidStep(
                f"connection {connection.name!r} has no [connections.actions] table, so every flow"
                " call is answered 401: add the table with a secret"
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
            birthdate=_birthdate(mapping) if mapping else "",
            actions_lack=platform.actions_lack(connection.settings),
            person_note=platform.person_note,
        )


def _birthdate(mapping: CompiledMapping) -> str:
    """The enabled field that is taken from the view's birth date; "" where there is none."""
    for field in mapping.fields:
        for source in field.sources:
            if any("birthdate" in paths for paths in source.required):
                return field.name
    return ""


@dataclass(frozen=True, slots=True)
class Webhook:
    """What is pasted into Klaviyo. `body`: a template that renders to JSON. `sample`: the body with
    example values. `notes`: hints for the person who builds the flow."""

    url: str
    headers: Mapping[str, str]
    body: str
    sample: str
    notes: tuple[str, ...]

    @property
    def curl(self) -> str:
        """A shell command that makes the call with example values. It is a real call."""
        headers = (f"-H {shlex.quote(f'{name}: {value}')}" for name, value in self.headers.items())
        return f"curl -i {shlex.quote(self.url)} {' '.join(headers)} -d {shlex.quote(self.sample)}"

    def masked(self) -> Webhook:
        """The same with masked credentials, for output that may end up in a log."""
        shown = {k: v if k == CONTENT_TYPE else "***" for k, v in self.headers.items()}
        return replace(self, headers=shown)
