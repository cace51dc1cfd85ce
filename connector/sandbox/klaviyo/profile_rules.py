"""Validates bodies that write profiles or list members, revision 2026-10-15.

Sources: the published spec; the pointers of a bulk import as third parties observed them live.
Guesses: KB and MB are decimal; a profile over 100 KB is answered 413 alone and 400 in a bulk
import; a bulk import lists every bad profile.
"""

from __future__ import annotations

from typing import Any

import orjson

from connector.sandbox.klaviyo.rules import (
    IDENTIFIERS,
    PROFILE_KEYS,
    ProfileIn,
    Reader,
    Violation,
    dig,
)

MAX_PROFILES = 10_000
MAX_PROFILE_BYTES = 100_000
MAX_MEMBERS = 1_000
PROFILES = "/data/attributes/profiles/data"

_KEYS = PROFILE_KEYS - {"anonymous_id"}
_CREATE_KEYS = _KEYS - {"_kx"}
_CREATE_IDENTIFIERS = ("email", "phone_number", "external_id")


def parse_import(body: Any) -> tuple[ProfileIn | None, list[Violation]]:
    """`POST /api/profile-import`: {"data": {"type": "profile", id?, attributes, meta?}}."""
    reader = Reader()
    data = reader.resource(body, "", "profile")
    given = reader.person(data, "/data", _KEYS, IDENTIFIERS) if data else None
    return given, reader.violations


def parse_create(body: Any) -> tuple[ProfileIn | None, list[Violation]]:
    """`POST /api/profiles`: as an import, with neither `id` nor `meta`."""
    reader = Reader()
    data = reader.resource(body, "", "profile")
    for name in data.keys() & {"id", "meta"}:
        reader.add("unknown_field", f"/data/{name}", f"'{name}' is not allowed here.")
    given = reader.person(data, "/data", _CREATE_KEYS, _CREATE_IDENTIFIERS) if data else None
    return given, reader.violations


def parse_update(body: Any, id: str) -> tuple[ProfileIn | None, list[Violation]]:
    """`PATCH /api/profiles/{id}`: as an import; `data.id` is required and must be the same id."""
    reader = Reader()
    data = reader.resource(body, "", "profile")
    if not data:
        return None, reader.violations
    if data.get("id") != id:
        reader.add("id_missing", "/data/id", "'id' is required and must match the path.")
    given = reader.person(data, "/data", _CREATE_KEYS, _CREATE_IDENTIFIERS, required=False)
    return given, reader.violations


def parse_job(body: Any, size: int) -> tuple[list[ProfileIn], list[str], list[Violation]]:
    """`POST /api/profile-bulk-import-jobs`: the profiles and the ids of the lists to join.

    {"data": {"type": "profile-bulk-import-job", "attributes": {"profiles": {"data": [profile, …]}},
    "relationships": {"lists": {"data": [{"type": "list", "id"}]}}}}; `size` is the body's in bytes.
    """
    reader = Reader()
    data = reader.resource(body, "", "profile-bulk-import-job")
    entries = dig(data, "attributes", "profiles", "data")
    if not isinstance(entries, list) or not entries:
        if not reader.violations:
            reader.shape(PROFILES, "A non-empty list is required.")
        return [], [], reader.violations
    if len(entries) > MAX_PROFILES:
        detail = f"At most {MAX_PROFILES} profiles are allowed."
        reader.add("too_many_profiles", PROFILES, detail)
    people = []
    for index, entry in enumerate(entries):
        place = f"{PROFILES}/{index}"
        if not isinstance(entry, dict) or entry.get("type") != "profile":
            reader.shape(place, "A 'profile' is required.")
            continue
        if size > MAX_PROFILE_BYTES < len(orjson.dumps(entry)):
            reader.add("profile_too_large", place, "At most 100KB per profile are allowed.")
        given = reader.person(entry, place, _KEYS, IDENTIFIERS)
        if given is not None:
            people.append(given)
    return people, _ids(reader, dig(data, "relationships", "lists", "data")), reader.violations


def parse_members(body: Any) -> tuple[list[str], list[Violation]]:
    """`POST` and `DELETE /api/lists/{id}/relationships/profiles`: {"data": [{type, id}, …]}."""
    reader = Reader()
    entries = body.get("data") if isinstance(body, dict) else None
    if not isinstance(entries, list) or not entries:
        reader.shape("/data", "A non-empty list is required.")
        return [], reader.violations
    if len(entries) > MAX_MEMBERS:
        reader.add("too_many_members", "/data", f"At most {MAX_MEMBERS} profiles are allowed.")
    ids = []
    for index, entry in enumerate(entries):
        id = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(id, str) or not id or entry.get("type") != "profile":
            reader.shape(f"/data/{index}", "A 'profile' with an id is required.")
        else:
            ids.append(id)
    return ids, reader.violations


def _ids(reader: Reader, lists: Any) -> list[str]:
    ids: list[str] = []
    for index, entry in enumerate(lists if isinstance(lists, list) else ()):
        id = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(id, str) or entry.get("type") != "list":
            reader.shape(f"/data/relationships/lists/data/{index}", "A 'list' is required.")
        else:
            ids.append(id)
    return ids
