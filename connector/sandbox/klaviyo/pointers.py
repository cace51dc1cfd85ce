"""JSON pointers to the parts of a request body that an injected `poison` fault matches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson


def pointers_to(body: bytes, match: str) -> Sequence[str]:
    """The profiles, groups or events of a bulk body that contain `match`; the properties of a
    single body."""
    try:
        attributes = orjson.loads(body)["data"]["attributes"]
        if "profiles" in attributes:
            return list(_profiles(attributes["profiles"]["data"], match.encode()))
        return list(_events(attributes["events-bulk-create"]["data"], match.encode()))
    except (ValueError, KeyError, TypeError):
        return ("/data/attributes/properties",)


def _profiles(profiles: Any, match: bytes) -> Iterator[str]:
    for index, profile in enumerate(profiles):
        if match in orjson.dumps(profile):
            pointer = f"/data/attributes/profiles/data/{index}"
            for name, value in profile.get("attributes", {}).items():
                if match in orjson.dumps(value):
                    pointer += f"/attributes/{name}"
                    break
            yield pointer


def _events(groups: Any, match: bytes) -> Iterator[str]:
    for index, group in enumerate(groups if isinstance(groups, list) else ()):
        pointer = f"/data/attributes/events-bulk-create/data/{index}/attributes"
        inner = group.get("attributes", {})
        if match in orjson.dumps(inner.get("profile")):
            yield f"{pointer}/profile/data/attributes/email"
        for at, event in enumerate(inner.get("events", {}).get("data", ())):
            if match in orjson.dumps(event):
                yield f"{pointer}/events/data/{at}/attributes/properties"
