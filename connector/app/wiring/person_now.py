"""One person as both remote APIs show them now, for whoever asks on a page. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from connector.app.wiring.context import ConnectionContext
from connector.domain.errors import DeliveryError
from connector.domain.profile_state import changes_from_message
from connector.domain.wording import format_age
from connector.klaviyo.remote_state import KlaviyoRemoteState
from connector.ports import PersonRef, PersonState, Reader
from connector.service.runtime import PersonNow, RemoteSide
from connector.sync.goals import goals

_PATIENCE = 10.0
"""Seconds that a person waits at most for each side, limits included."""


def build_person_now(context: ConnectionContext) -> Callable[[int], Awaitable[PersonNow]]:
    """Both reads count against the limits of live traffic and of backfills, as every other one."""
    store = context.services.store

    async def person_now(id: int) -> PersonNow:
        person = await store.timelines.person(id, 0)
        platform, klaviyo = await asyncio.gather(
            _within(_at_platform(context, person)), _within(_at_klaviyo(context, person))
        )
        return PersonNow(platform, klaviyo, context.services.clock.now())

    return person_now


async def _within(read: Awaitable[RemoteSide]) -> RemoteSide:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await read
    except TimeoutError:
        return RemoteSide(None, f"no answer within {_PATIENCE:.0f} s; try again later")
    except DeliveryError as error:
        return RemoteSide(None, str(error))


async def _at_platform(context: ConnectionContext, person: PersonState) -> RemoteSide:
    reader = context.reader
    if reader is None:
        return RemoteSide(None, f"{context.platform.title} cannot be asked for a person")
    wait = await _reserve(context, reader)
    if wait:
        return RemoteSide(None, f"its limit of requests is used up; try again in {wait}")
    known = await context.services.store.reads.fresh_views([person.id])
    view = orjson.dumps(known[person.id].view) if person.id in known else b""
    ref = PersonRef(person.id, person.platform_id, person.email, view)
    snapshot = await reader.read(ref, context.mapping.reads)
    if snapshot is None:
        return RemoteSide(None, f"{context.platform.title} does not know this person")
    snapshot = goals(context.connection.tiers, context.connection.rewards)(snapshot)
    if withheld := snapshot.view.get("withheld"):
        return RemoteSide(None, f"the platform says that their data must not be used ({withheld})")
    changes = changes_from_message(context.mapping.render_profile(snapshot.view, snapshot.covers))
    return RemoteSide(_values(changes))


async def _reserve(context: ConnectionContext, reader: Reader) -> str:
    """Take one permit: "" where there is one, else the time until there may be."""
    grant = reader.quota.reserve(reader.endpoint, 1)
    if not grant.count:
        return format_age(grant.wait)
    await context.services.store.facts.save_usage(grant.usage)
    return ""


async def _at_klaviyo(context: ConnectionContext, person: PersonState) -> RemoteSide:
    if person.email is None:
        return RemoteSide(None, "without an e-mail address they have no profile of ours")
    found = await KlaviyoRemoteState(context.api).profiles([person.email])
    if person.email not in found:
        return RemoteSide(None, "Klaviyo has no profile with their address")
    return RemoteSide(_values(found[person.email].fields))


def _values(fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
