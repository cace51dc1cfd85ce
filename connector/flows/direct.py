"""A webhook that calls the platform itself, as the platform's own guides have it."""

from __future__ import annotations

from connector.flows.builder import ADDS, EMAIL, Checked, Place, Step, Webhook, webhook
from connector.flows.templates import Unfit
from connector.model import Action

_EARNED = {"reward": True, "remove_earned": True}

WARNING = (
    "Not deduplicated: Klaviyo repeats a call whose answer it did not get, and the platform then"
    " does it again. once-per counts for nothing, and there is no cap, no record, no approval."
)


def build_direct(step: Step, place: Place) -> Webhook:
    """The webhook that calls the platform. Raises Unfit with every fault of the step."""
    made = Checked(step, place)
    faults = list(made.faults)
    if place.direct is None:
        faults.append(f"{place.title} documents no call that a flow could make itself")
    if isinstance(made.amount, str):
        faults.append("the platform wants the amount as a number: no {{ variables }} in it")
    if faults or place.direct is None or isinstance(made.amount, str):
        raise Unfit(*faults)
    action = Action(
        name=step.action,
        ref="",
        email=EMAIL,
        amount=made.amount if made.adds is not False else -made.amount,
        reason=made.reason,
        earned=_earned(step),
        message=made.message,
        url=made.url,
    )
    try:
        call = place.direct(action)
    except ValueError as error:
        raise Unfit(str(error)) from error
    return webhook(call.url, call.headers, call.body, (WARNING,))


def _earned(step: Step) -> bool | None:
    """Whether the points also count as earned: by the use case, else by the direction."""
    if step.use_case:
        return _EARNED.get(step.use_case, False)
    return {"increase": ADDS["reward"], "decrease": ADDS["redeem"]}.get(step.action)
