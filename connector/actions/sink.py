"""Sends actions to the platform one at a time, and looks up ambiguous ones (guarantee 4).

connector.domain.settlement says what an answer means, connector.store.queues.action_state when an
action is looked up and when it is sent again.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

import orjson

from connector.domain.actions import Action
from connector.domain.attention import Check
from connector.domain.errors import (
    AmbiguousError,
    DeliveryError,
    Problem,
    RetryLater,
    StoreError,
)
from connector.domain.lanes import DeliveryMode
from connector.domain.messages import Fault, Skip
from connector.domain.outcomes import (
    Absent,
    Accepted,
    Dead,
    Delivery,
    Held,
    Outcome,
    Request,
    Retry,
    Skipped,
    Unsent,
)
from connector.domain.records import Entry
from connector.domain.settlement import at_most_once, outcome_for
from connector.ports import Actions, BatchMode, Clock, IdentifiedAction, Outgoing, Quota
from connector.runtime import log
from connector.runtime.single_requests import in_single_requests

_LOOK_UP = at_most_once(frozenset(), writes=False)
_KLAVIYO_ID = re.compile(r"01[0-9A-Z]{24}", re.ASCII)
_NOT_FOR_PERSON = frozenset({409, 422})
"""Refusals of a well-formed adjustment: too few points, an account that is closed or opted out."""
_UNKNOWN_PERSON_WAIT = 10.0
_APPLIED_STATUS = 200
"""Recorded for every applied action: connector.ports.Actions does not return the status."""


def is_look_up(entry: Entry) -> bool:
    """Whether an action needs a look-up next (Step.LOOK_UP), not a send."""
    return entry.mode is DeliveryMode.SINGLE


class ActionRenderer:
    """connector.ports.Renderer of actions: they are sent as they were requested. `version`: a
    digest of the platform's settings, which say where an action is sent and is looked up."""

    def __init__(self, version: str = "") -> None:
        self.version = version

    async def prepare(self, entries: Sequence[Entry]) -> None: ...

    def render(self, entry: Entry) -> Action | Skip | Fault:
        return Action(**orjson.loads(entry.data))


class ActionSink:
    """connector.ports.Sink over a platform's Actions. An ambiguous entry is looked up, not sent.

    `may_send` is called before each action is given to the platform, also to one whose adapter does
    not call it by connector.net.http (guarantee 12). `not_applied` are the statuses that mean that
    an action was not applied. `address_of` returns the address of a Klaviyo profile id: None where
    Klaviyo has no such profile, empty for one without an address. `identify` saves the address of
    an action's person. `settings` is the renderer's version: an action that was sent with other
    settings may be missing for that alone (guarantee 4). An action whose person the platform does
    not know is retried for `unknown_person_grace` ms.
    """

    bulk: BatchMode | None = None

    def __init__(
        self,
        platform: Actions,
        *,
        clock: Clock,
        may_send: Callable[[], bool],
        not_applied: frozenset[int],
        address_of: Callable[[str], Awaitable[str | None]],
        identify: Callable[[int, str], Awaitable[IdentifiedAction | None]],
        check: Callable[[], Awaitable[Sequence[Check]]],
        settings: str = "",
        unknown_person_grace: int = 0,
    ) -> None:
        self._platform = platform
        self._clock = clock
        self._may_send = may_send
        self._policy = at_most_once(not_applied)
        self._address_of = address_of
        self._identify = identify
        self._check = check
        self._settings = settings
        self._grace = unknown_person_grace
        self.single = BatchMode(platform.endpoint, size=1, parallel=platform.parallel)
        self._log = log.get("actions")

    @property
    def quota(self) -> Quota:
        return self._platform.quota

    def deliver(
        self, batch: Sequence[Outgoing[Action]], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        return in_single_requests(self._deliver_one(out.entry, out.message) for out in batch)

    async def _deliver_one(self, entry: Entry, action: Action) -> Delivery:
        seq, looks_up = entry.seq, is_look_up(entry)
        try:
            addressed = await self._with_address(seq, action, waits_for_earlier=not looks_up)
        except DeliveryError as error:
            after = error.after if isinstance(error, RetryLater) else 0.0
            detail = "reading the profile's address at Klaviyo failed"
            return Delivery([Retry(seq, error.problem, after, detail)])
        except StoreError:
            return Delivery([Unsent(seq)])
        if looks_up:
            # It was sent: what is known of the person by now changes nothing about that.
            known = addressed if isinstance(addressed, Action) else action
            return await self._look_up(seq, known, sent_with=entry.mapping)
        if not isinstance(addressed, Action):
            return Delivery([addressed])
        if not self._may_send():
            return Delivery([Unsent(seq)])
        return await self._apply(seq, addressed)

    async def _with_address(
        self, seq: int, action: Action, *, waits_for_earlier: bool
    ) -> Action | Outcome:
        """The action with the address of a Klaviyo id, or why it cannot be sent. An id that Klaviyo
        does not have is left to the platform, as one that cannot be Klaviyo's is."""
        id = action.customer or ""
        if action.email or action.person or not _KLAVIYO_ID.fullmatch(id):
            return action
        email = await self._address_of(id)
        if email is None:
            return action
        if not email:
            detail = "the Klaviyo profile with this customer_id has no e-mail address"
            return Held(seq, Problem.ACTION_PERSON, detail)
        found = await self._identify(seq, email)
        if found is None:
            return Skipped(seq, "forgotten")
        if waits_for_earlier and not found.is_first:
            return Unsent(seq)
        return replace(action, email=email, person=found.platform_id, customer=None)

    async def _apply(self, seq: int, action: Action) -> Delivery:
        sent_at, started = self._clock.now(), self._clock.monotonic()
        id, error, platform_ref = secrets.token_hex(8), None, None
        try:
            platform_ref = await self._platform.apply(action)
        except DeliveryError as failed:
            error = failed
        except Exception as fault:
            # A bug in the adapter. It may have happened after the request left.
            self._log.exception("adapter_failed", action=action.name)
            error = AmbiguousError(
                Problem.ANSWER_UNREADABLE, f"{type(fault).__name__} in the adapter"
            )
        request = Request(
            id=id,
            endpoint=self._platform.endpoint,
            sent_at=sent_at,
            status=error.status if error else _APPLIED_STATUS,
            millis=round((self._clock.monotonic() - started) * 1000),
            problem=error.problem if error else None,
        )
        if error is None:
            return Delivery([Accepted(seq, id, platform_ref)], [request])
        outcome, stop = outcome_for(seq, error, self._policy, request=id)
        if isinstance(outcome, Dead):
            return Delivery([self._refused(outcome, error, action)], [request])
        return Delivery([outcome], [request], stop)

    def _refused(self, outcome: Dead, error: DeliveryError, action: Action) -> Outcome:
        """What a refusal says about the action's person, who may be its only cause."""
        seq, detail = outcome.seq, outcome.detail
        if outcome.problem is Problem.NO_IDENTITY:
            return Held(seq, Problem.ACTION_PERSON, detail)
        if error.status == 404 or outcome.problem is Problem.PLATFORM_TARGET:
            after = min(_UNKNOWN_PERSON_WAIT, self._grace / 10_000)
            return Retry(seq, Problem.ACTION_UNKNOWN_PERSON, after, detail, grace=self._grace)
        # Platforms that answer 400 to a wrong body may answer it to a wrong balance as well.
        spends_too_much = error.status == 400 and action.amount < 0
        if error.status in _NOT_FOR_PERSON or spends_too_much:
            return replace(outcome, problem=Problem.ACTION_NOT_FOR_PERSON)
        return outcome

    async def _look_up(self, seq: int, action: Action, *, sent_with: str | None) -> Delivery:
        """A look-up changes nothing, so one without an answer is repeated."""
        try:
            found = await self._platform.look_up(action)
        except DeliveryError as error:
            outcome, stop = outcome_for(seq, error, _LOOK_UP)
            if isinstance(outcome, Dead):
                outcome = _held_uncertain(seq, error)
            return Delivery([outcome], stop=stop)
        if found == "applied":
            return Delivery([Accepted(seq, "")])
        detail = "the platform keeps no reference by which the action can be found"
        if found == "absent":
            if sent_with in (None, self._settings):
                return Delivery([Absent(seq)])
            detail = "not found, but [connections.settings] have changed since it was sent"
        return Delivery([Held(seq, Problem.ACTION_UNCERTAIN, detail)])

    def resumed(self) -> None: ...

    async def check(self) -> Sequence[Check]:
        return await self._check()

    def preview(self, out: Outgoing[Action]) -> tuple[str, bytes]:
        return self._platform.endpoint, orjson.dumps(out.message)


def _held_uncertain(seq: int, error: DeliveryError) -> Held:
    detail = f"the look-up was refused: {error.problem} {error.detail}"
    return Held(seq, Problem.ACTION_UNCERTAIN, detail)
