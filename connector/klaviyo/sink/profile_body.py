"""A profile write as Klaviyo's JSON. Shapes: Klaviyo's reference of `create_or_update_profile`,
`update_profile` and `bulk_import_profiles`, revision 2026-10-15.

Nothing here can grant consent, lift a suppression or unsubscribe anyone (guarantee 7): none of the
keys that are written does so.
"""

from __future__ import annotations

from typing import Any

import orjson

from connector.domain import profile_state
from connector.domain.errors import Problem
from connector.domain.messages import Fault
from connector.domain.profiles import ProfileWrite
from connector.klaviyo.limits import BULK_PROFILES, BULK_PROFILES_MAX, PROFILE_MAX
from connector.klaviyo.sink.batches import Envelope

ENVELOPE = Envelope(
    endpoint=BULK_PROFILES,
    max_items=BULK_PROFILES_MAX,
    head=b'{"data":{"type":"profile-bulk-import-job","attributes":{"profiles":{"data":[',
    tail=b"]}}}}",
    pointer="/data/attributes/profiles/data/",
)


def upsert(write: ProfileWrite) -> bytes:
    """The body of POST /api/profile-import."""
    return orjson.dumps({"data": _profile(write, write.identity)})


def update(write: ProfileWrite, profile_id: str) -> bytes:
    """The body of PATCH /api/profiles/{id}: by Klaviyo's id and without identifiers, except for a
    move, which sets the new address."""
    identity = (
        {k: v for k, v in write.identity.items() if k == "email"} if write.pending_move else {}
    )
    return orjson.dumps({"data": {**_profile(write, identity), "id": profile_id}})


def item(write: ProfileWrite) -> bytes:
    """One of the profiles of POST /api/profile-bulk-import-jobs."""
    return orjson.dumps(_profile(write, write.identity))


def validate(encoded: bytes) -> Fault | None:
    if len(encoded) > PROFILE_MAX:
        return Fault(
            Problem.RECORD_TOO_LARGE, f"the profile has {len(encoded)} bytes, {PROFILE_MAX} allowed"
        )
    return None


def _profile(write: ProfileWrite, identity: Any) -> dict[str, Any]:
    profile: dict[str, Any] = {
        "type": "profile",
        "attributes": {**profile_state.attributes_of(write.sets), **identity},
    }
    if write.unsets:
        profile["meta"] = {"patch_properties": {"unset": list(write.unsets)}}
    return profile
