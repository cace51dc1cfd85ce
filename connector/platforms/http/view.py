"""Views that follow the paths of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connector.mapping import MISSING, getter, parse_path
from connector.mapping.paths import Getter, is_blank
from connector.platforms.http.settings import Event, Profile
from connector.ports.platform import EventView, PersonView
from connector.runtime.clock import iso


def getter_at(path: str) -> Getter:
    """The value at a path, MISSING if there is none; an empty path is the value itself."""
    return getter(parse_path(path)) if path else lambda value: value


def event_view(event_settings: Event) -> EventView:
    """`email`, `event.name`, `event.time`, `event.properties`, and `raw`, the event itself."""
    properties = getter_at(event_settings.properties)
    get_address = getter_at(event_settings.email) if event_settings.email else lambda event: MISSING

    def view(
        name: str, occurred_at: int, body: dict[str, Any], known_email: str | None
    ) -> dict[str, Any]:
        event: dict[str, Any] = {"name": name, "time": iso(occurred_at)}
        found = properties(body)
        if isinstance(found, dict):
            event["properties"] = found
        result: dict[str, Any] = {"event": event, "raw": body}
        address = known_email or get_address(body)
        if isinstance(address, str) and address:
            result["email"] = address
        return result

    return view


def person_view(profile: Profile) -> PersonView:
    """The fields of `profile.view`, and `raw`, the platform's object of the person."""
    words = [(word.split("."), getter_at(path)) for word, path in profile.view.items()]

    def view(customer: dict[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {"raw": customer}
        for parts, get in words:
            value = get(customer)
            if not is_blank(value):
                table = result
                for part in parts[:-1]:
                    table = table.setdefault(part, {})
                table[parts[-1]] = value
        return result

    return view
