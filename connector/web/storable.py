"""What no row can have, so that a request with it is refused before it reaches the store."""

from __future__ import annotations

import re
from typing import Any

from starlette.convertors import Convertor, register_url_convertor
from starlette.types import Scope

from connector.domain.lanes import MAX_ID

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def read_id(text: str) -> int:
    """The id of a row. Raises ValueError for what is none."""
    found = int(text)
    if not 0 < found <= MAX_ID:
        raise ValueError(f"{found} is no id")
    return found


def is_storable(data: Any) -> bool:
    """Whether every text in JSON data can be stored: PostgreSQL refuses U+0000, and a half of a
    surrogate pair cannot be encoded."""
    if isinstance(data, str):
        return _UNSTORABLE.search(data) is None
    if isinstance(data, dict):
        return all(is_storable(key) and is_storable(value) for key, value in data.items())
    return not isinstance(data, list) or all(map(is_storable, data))


def is_storable_url(scope: Scope) -> bool:
    return b"%00" not in scope["query_string"] and "\0" not in scope["path"]


class _IdConvertor(Convertor[int]):
    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("id", _IdConvertor())  # `{id:id}` in a Starlette route
