"""An audience is kept as a list."""

from __future__ import annotations

from .conftest import Start


async def test_a_list_is_made_and_filled(start: Start) -> None:
    site = await start(people={"vip": ["ada", "bob", "cyd", "dan"]})
    await site.start()
    await site.rest(20)
    assert site.on() == ["ada", "bob", "cyd", "dan"]
