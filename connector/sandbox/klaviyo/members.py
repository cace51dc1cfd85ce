"""Pages of the members of a list or segment."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from starlette.datastructures import URL, QueryParams

from connector.sandbox.klaviyo import reads, views
from connector.sandbox.klaviyo.lists import MemberList
from connector.sandbox.klaviyo.state import Memory, Profile

Page = tuple[list[tuple[float, Profile]], str | None]


def page_of(
    memory: Memory,
    members: MemberList,
    query: QueryParams,
    *,
    by: Sequence[str] = ("email", "phone_number"),
) -> Page:
    """([(time of joining, profile)], cursor of the next page). `by`: the fields that `equals` and
    `any` may filter by."""
    keys = members.keys
    for operator, name, values in reads.terms(query.get("filter", "")):
        if operator in ("equals", "any") and name in by:
            hits = [
                memory.by_id(value) if name == "profile_id" else memory.by(name, value)
                for value in values
            ]
            chosen = {hit.number for hit in hits if hit is not None}
            keys = [key for key in keys if key[1] in chosen]
        elif operator in reads.COMPARE and name == "joined_group_at":
            edge, test = reads.parse_time(values[0]), reads.COMPARE[operator]
            # Times are shown in whole seconds and are therefore compared in whole seconds.
            keys = [key for key in keys if test(key[0] // 1_000_000, edge)]
        else:
            raise reads.InvalidParameter("filter", f"'{name}' cannot be filtered by '{operator}'.")
    sort = query.get("sort", "joined_group_at")
    if sort.removeprefix("-") != "joined_group_at":
        raise reads.InvalidParameter("sort", f"'{sort}' is not a valid sort.")
    down = sort.startswith("-")
    size, start = reads.size_of(query, default=20, most=100), 0
    if cursor := reads.cursor_of(query):
        last = (int(cursor[0]), int(cursor[-1]))
        start = bisect.bisect_left(keys, last) if down else bisect.bisect_right(keys, last)
    elif down:
        start = len(keys)
    # A page is sliced from the sorted keys, because a list may have a million members.
    page = keys[max(0, start - size) : start][::-1] if down else keys[start : start + size]
    more = start > size if down else len(keys) > start + size
    following = f"{page[-1][0]}|{page[-1][1]}" if more else None
    return [(at / 1e6, memory.by_number(number)) for at, number in page], following


def profiles(page: Page, query: QueryParams, url: URL) -> reads.Page:
    """The members' profiles, with the time of joining as the last attribute."""
    shown, (people, following) = reads.extras(query), page
    return [
        views.profile(person, url, {**shown, "joined_group_at": views.iso(at)})
        for at, person in people
    ], following


def ids(page: Page) -> reads.Page:
    """The members' ids alone."""
    people, following = page
    return [{"type": "profile", "id": person.id} for _, person in people], following
