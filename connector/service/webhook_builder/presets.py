"""Ready-made steps for common flows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from connector.service.webhook_builder.step import FlowTarget, Step
from connector.service.webhook_builder.templates import InvalidStep


@dataclass(frozen=True, slots=True)
class Preset:
    """A ready-made step. `flow`: what starts the flow at Klaviyo, in one line; `{birthdate}` is
    replaced by the property that has the birth date."""

    flow: str
    step: Step

    def starts_with(self, target: FlowTarget) -> str:
        """`flow` for this connection."""
        if "{birthdate}" not in self.flow or target.birthdate:
            return self.flow.format(birthdate=target.birthdate)
        return (
            "a date property with the birth date, on the day. The mapping of this connection "
            "writes none: enable its field that is taken from birthdate"
        )


PRESETS: Mapping[str, Preset] = {
    "welcome-bonus": Preset(
        "a person who joins your newsletter list",
        Step("increase", amount="100", reason="Welcome bonus", trigger="list"),
    ),
    "review-reward": Preset(
        "the metric of your review app for a published review",
        Step("increase", amount="50", reason="Thank you for your review"),
    ),
    "survey": Preset(
        "the metric of your survey app for a completed survey",
        Step("increase", amount="25", reason="Thank you for your answers"),
    ),
    "email-engagement": Preset(
        "the metric Clicked Email; at most one reward a week, however many clicks",
        Step("increase", amount="5", reason="Thank you for reading", once_per="7d"),
    ),
    "re-engagement": Preset(
        "a person who enters a segment such as: has not bought for 90 days",
        Step(
            "increase",
            amount="50",
            reason="We have missed you",
            trigger="segment",
            once_per="180d",
        ),
    ),
    "birthday-bonus": Preset(
        "the date property {birthdate}, on the day",
        Step("increase", amount="100", reason="Happy birthday", trigger="date"),
    ),
    "reward-ready-push": Preset(
        "a person who enters a segment such as: balance is at least the cost of a reward",
        Step("push", message="Your reward is ready", trigger="segment", once_per="30d"),
    ),
    "refund-redeemed-points": Preset(
        "the metric of a cancelled order; amount is the property with the redeemed points",
        Step(
            "adjust",
            amount="{{ event.points }}",
            at_most=500,
            reason="Points of your cancelled order",
            use_case="refund",
        ),
    ),
}


def step_of(preset: str | None, given: Mapping[str, Any]) -> Step:
    """A step from what is given; where that is None it is as in the preset, else the default.
    Raises InvalidStep for an unknown preset."""
    if preset is not None and preset not in PRESETS:
        raise InvalidStep(f"no preset {preset!r}; available: {', '.join(PRESETS)}")
    found = PRESETS[preset].step if preset else Step()
    changes = {key: value for key, value in given.items() if value is not None}
    return replace(found, **{"name": preset or "", **changes})
