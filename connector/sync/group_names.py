"""What is offered for the name of an audience, list or segment that does not exist."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from connector.domain.errors import DeliveryError
from connector.domain.wording import closest, offered

_ENOUGH = 500


@dataclass(frozen=True, slots=True)
class Offer:
    """`text` follows the name in a message; empty where no names are known. `near` are the most
    similar names."""

    text: str = ""
    near: Sequence[str] = ()


async def offer(name: str, pages: AsyncIterator[Mapping[str, str]]) -> Offer:
    """What exists instead of `name`, from pages of id → name: of many the first ones, and where
    the remote side fails those that it gave before."""
    names: set[str] = set()
    try:
        async for page in pages:
            names.update(page.values())
            if len(names) >= _ENOUGH:
                break
    except DeliveryError:
        pass
    return Offer(offered(name, names), closest(name, names)) if names else Offer()
