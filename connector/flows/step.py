"""A webhook step of a flow as a person describes it, where it calls, and what is pasted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from connector.model import ActionName
from connector.ports import DirectCall, Offer

Trigger = Literal["metric", "list", "date", "segment"]
UseCase = Literal["reward", "refund", "redeem", "remove_earned", "expire"]

ADDS: Mapping[UseCase, bool] = {
    "reward": True,
    "refund": True,
    "redeem": False,
    "remove_earned": False,
    "expire": False,
}
"""Use case → whether it adds points."""


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
    def adds(self) -> bool | None:
        """Whether points are added, None where the amount's own sign says it."""
        if self.use_case:
            return ADDS[self.use_case]
        return {"increase": True, "decrease": False}.get(self.action)


@dataclass(frozen=True, slots=True)
class Place:
    """The connection that the flow calls: its `address` ends in its name. `offers` is what its
    platform can be asked for, `secret` what proves the flow, `max_amount` the most points of one
    adjustment. `repeats` is for how many seconds a call may be repeated, `keys_kept` for how many a
    key is remembered. `direct` makes the call to the platform itself, where it documents one."""

    address: str
    title: str
    offers: frozenset[Offer]
    secret: str
    max_amount: int
    repeats: float
    keys_kept: float
    direct: Callable[[Any], DirectCall] | None = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """What is pasted into Klaviyo. `body` is a template; rendered, it is JSON. `curl` makes the
    same call with made-up values. `notes` is what the person should know."""

    url: str
    headers: Mapping[str, str]
    body: str
    curl: str
    notes: tuple[str, ...]
