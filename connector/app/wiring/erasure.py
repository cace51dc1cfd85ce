"""Asking Klaviyo to delete a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from connector.app.wiring.context import ConnectionContext
from connector.domain.errors import DeliveryError
from connector.klaviyo.limits import ERASE_PROFILE
from connector.service import CommandHandler, CommandResult


def build_erasure(context: ConnectionContext) -> Mapping[str, CommandHandler]:
    """The command `erase`: a deletion job for each address. Scope data-privacy:write."""

    async def erase(args: Mapping[str, Any]) -> CommandResult:
        if context.shadow:
            return False, {"error": "shadow mode sends nothing to Klaviyo"}
        unknown = 0
        for email in args["emails"]:
            await context.api.permit(ERASE_PROFILE)
            sent = await context.api.post(ERASE_PROFILE, _job(email))
            if sent.error and _has_no_profile(sent.error):
                unknown += 1
            elif sent.error:
                return False, {"error": str(sent.error)}
        jobs = len(args["emails"]) - unknown
        return True, {"deletion_jobs_at_klaviyo": jobs, "unknown_to_klaviyo": unknown}

    return {"erase": CommandHandler(erase)}


def _has_no_profile(error: DeliveryError) -> bool:
    """Klaviyo's own 404 for an address without a profile, which may have been deleted before. That
    of a wrong base URL has no such code."""
    return error.status == 404 and "not_found" in error.detail


def _job(email: str) -> bytes:
    """Klaviyo's reference of `request_profile_deletion`."""
    person = {"data": {"type": "profile", "attributes": {"email": email}}}
    job = {"type": "data-privacy-deletion-job", "attributes": {"profile": person}}
    return orjson.dumps({"data": job})
