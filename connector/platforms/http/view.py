"""What the settings' paths find, in the documented words of a view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from connector.mapping import MISSING, getter, parse_path
from connector.mapping.paths import Getter, blank
from connector.platforms.http.settings import Event, Profile
from connector.runtime.clock import iso

EventView = Callable[[str, int, dict[str, Any], str | None], dict[str, Any]]
PersonView = Callable[[dict[str, Any], str | None], dict[str, Any]]


def at(path: str) -> Getter:
    """The value at a path, MISSING where it leads nowhere; an empty path is the value itself."""
    return getter(parse_path(path)) if path else lambda value: value


def event_view(said: Event) -> EventView:
    """`email`, `event.name`, `event.time`, `event.properties`, and `raw`, the event itself."""
    properties = at(said.properties)
    address_at = at(said.email) if said.email else lambda event: MISSING

    def view(
        name: str, occurred_at: int, body: dict[str, Any], known: str | None
    ) -> dict[str, Any]:
        event: dict[str, Any] = {"name": name, "time": iso(occurred_at)}
        found = properties(body)
        if isinstance(found, dict):
            event["properties"] = found
        shown: dict[str, Any] = {"event": event, "raw": body}
        address = known or address_at(body)
        if isinstance(address, str) and address:
            shown["email"] = address
        return shown

    return view


def person_view(profile: Profile) -> PersonView:
    """The words of `profile.view`, and `raw`, the person as the platform shows him."""
    words = [(word.split("."), at(path)) for word, path in profile.view.items()]

    def view(customer: dict[str, Any], _: str | None = None) -> dict[str, Any]:
        shown: dict[str, Any] = {"raw": customer}
        for parts, get in words:
            value = get(customer)
            if not blank(value):
                table = shown
                for part in parts[:-1]:
                    table = table.setdefault(part, {})
                table[parts[-1]] = value
        return shown

    return view
