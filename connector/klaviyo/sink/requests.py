"""What every sink to Klaviyo shares: its quota and check, and what a request that was sent means
for the records it carried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connector.domain.attention import Check
from connector.domain.errors import DeliveryError, Rejected
from connector.domain.lanes import DeliveryMode
from connector.domain.outcomes import UNKNOWN_JOB, Accepted, Delivery, Pending, Request
from connector.domain.settlement import REPEAT_HARMLESS, Policy, delivery_for
from connector.klaviyo.api import KlaviyoApi, SentRequest
from connector.ports import Outgoing, Quota


class KlaviyoSink:
    """The part of connector.ports.Sink that is the same for all kinds of records."""

    def __init__(self, api: KlaviyoApi) -> None:
        self._api = api

    @property
    def quota(self) -> Quota:
        return self._api.limiter

    def resumed(self) -> None: ...

    async def check(self) -> Sequence[Check]:
        return await self._api.check()


IN_BATCHES = frozenset({DeliveryMode.BATCH})
"""BatchMode.creates_jobs of import requests: whoever is claimed in this mode is sent in them."""


def is_backfill(batch: Sequence[Outgoing[Any]]) -> bool:
    """Whether further requests for this batch take the quota of backfills: a claim holds entries
    of backfills, or none."""
    return all(out.entry.backfill for out in batch)


def accepted(seqs: Sequence[int], sent: SentRequest) -> Delivery:
    """All records of a request that was answered with a 2xx."""
    return Delivery([Accepted(seq, sent.request.id) for seq in seqs], [sent.request])


def queued(seqs: Sequence[int], sent: SentRequest) -> Delivery:
    """202: Klaviyo runs a job, whose id is the receipt. An empty id has been seen
    (docs/unverified.md): the job exists, but its result cannot be read."""
    return _pending(seqs, response_id(sent) or _unknown_job(sent), sent)


def maybe_queued(seqs: Sequence[int], sent: SentRequest) -> Delivery:
    """No readable answer: a job may exist."""
    return _pending(seqs, _unknown_job(sent), sent)


def _unknown_job(sent: SentRequest) -> str:
    return UNKNOWN_JOB + sent.request.id


def _pending(seqs: Sequence[int], receipt: str, sent: SentRequest) -> Delivery:
    why = (sent.error.problem, sent.error.detail) if sent.error else (None, "")
    pending = [
        Pending(seq, receipt, position, sent.request.id, *why) for position, seq in enumerate(seqs)
    ]
    return Delivery(pending, [sent.request])


def failed(
    seqs: Sequence[int],
    error: DeliveryError,
    requests: Sequence[Request],
    policy: Policy = REPEAT_HARMLESS,
) -> Delivery:
    """All records of a request that failed, the last of `requests`. The detail of a refusal is what
    Klaviyo's error pointers name."""
    pointers = error.pointers[:3] if isinstance(error, Rejected) else ()
    named = "; ".join(f"{reason} at {pointer}" for pointer, reason in pointers)
    return delivery_for(seqs, error, policy, requests, detail=named or None)


def response_id(sent: SentRequest) -> str | None:
    """Klaviyo's id of what it created or updated; None where the answer names none."""
    try:
        id = sent.response().json()["data"].get("id")
        return str(id) if id else None
    except (DeliveryError, KeyError, TypeError, AttributeError):
        return None
