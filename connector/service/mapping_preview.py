"""`connector mappings preview`: a real person before and after a change of the mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connector.domain.profile_state import changes_from_message
from connector.mapping import CompiledMapping
from connector.ports import Store

_UNSET = object()


@dataclass(frozen=True, slots=True)
class PersonPreview:
    """One person: `before` as it is wanted at Klaviyo now, `after` as the mapping renders the last
    read. None is a field that is unset. `read_at` in ms since 1970; None: never read, so nothing
    can be rendered."""

    email: str | None
    platform_id: str | None
    read_at: int | None
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    left_out: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """One line per field: `=` unchanged, `~` changed, `+` new, `-` no longer written."""
        return [self._line(name) for name in sorted(self.before.keys() | self.after.keys())]

    def _line(self, name: str) -> str:
        before, after = self.before.get(name, _UNSET), self.after.get(name, _UNSET)
        if before is _UNSET:
            return f"+ {name}: {_shown(after)}"
        if after is _UNSET:
            return f"- {name}: {_shown(before)} (stays at Klaviyo as it is)"
        if before == after:
            return f"= {name}: {_shown(after)}"
        return f"~ {name}: {_shown(before)} → {_shown(after)}"


def _shown(value: Any) -> str:
    return "unset" if value is None else repr(value) if isinstance(value, str) else str(value)


async def preview_person(
    store: Store, connection: str, who: str, mapping: CompiledMapping
) -> list[PersonPreview]:
    """The people with this address or platform id. Reads the store alone: no credentials."""
    ids = await store.timelines.find(connection, who)
    views = await store.reads.fresh_views(ids)
    found = []
    for id in ids:
        person = await store.timelines.person(id, 1)
        before = {name: value for name, (value, _) in person.wanted.items()}
        view = views.get(id)
        if view is None:
            found.append(PersonPreview(person.email, person.platform_id, None, before, {}))
            continue
        message = mapping.render_profile(dict(view.view))
        found.append(
            PersonPreview(
                person.email,
                person.platform_id,
                view.at,
                before,
                changes_from_message(message),
                tuple(message.problems),
            )
        )
    return found
