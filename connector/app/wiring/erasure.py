"""Asking Klaviyo to delete a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from connector.app.wiring.context import ConnectionContext
from connector.klaviyo.limits import ERASE_PROFILE
from connector.service import CommandHandler, CommandResult


def build_erasure(context: ConnectionContext) -> Mapping[str, CommandHandler]:
    """The command `erase`: a deletion job for each address. Scope data-privacy:write."""

    async def erase(args: Mapping[str, Any]) -> CommandResult:
        if context.shadow:
            return False, {"error": "shadow mode sends nothing to Klaviyo"}
        for email in args["emails"]:
            await context.api.permit(ERASE_PROFILE)
            sent = await context.api.post(ERASE_PROFILE, _job(email))
            if sent.error:
                return False, {"error": str(sent.error)}
        return True, {"deletion_jobs_at_klaviyo": len(args["emails"])}

    return {"erase": CommandHandler(erase)}


def _job(email: str) -> bytes:
    """Klaviyo's reference of `request_profile_deletion`."""
    person = {"data": {"type": "profile", "attributes": {"email": email}}}
    job = {"type": "data-privacy-deletion-job", "attributes": {"profile": person}}
    return orjson.dumps({"data": job})
