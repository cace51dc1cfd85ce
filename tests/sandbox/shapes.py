"""A small language for the shapes of JSON answers.

A shape is a dict (exactly these keys), a list of one shape (at least one such item) or of none (no
item), or a word:

    text int number bool object    a value of this type (an object with any keys)
    time       ISO 8601 in UTC with "+00:00" and whole seconds
    exact      the same with microseconds
    link       an absolute link that ends in "/", with no query
    here       the request's own address, without a "/" at its end, its query percent-encoded
    next       the request's own address with another `page[cursor]`
    id:CODE    an identifier of this many characters ("id:26")
    uuid       UUID version 4
    null       null
    =VALUE     this text

A word that ends in `?` may be null; `a|b` is either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx

Shape = dict[str, Any] | list[Any] | str

_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "int": (int,),
    "number": (int, float),
    "bool": (bool,),
    "object": (dict,),
}
_PATTERNS = {
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00",
    "exact": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00",
    "link": r"http://[^?]+/",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
}


def differences(value: Any, shape: Shape, request: httpx.Request, path: str = "") -> Iterator[str]:
    """One line for each part of `value` that has another shape."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{path}: {value!r} is not an object"
            return
        if missing := shape.keys() - value.keys():
            yield f"{path}: missing {sorted(missing)}"
        if unknown := value.keys() - shape.keys():
            yield f"{path}: unknown {sorted(unknown)}"
        for name in shape.keys() & value.keys():
            yield from differences(value[name], shape[name], request, f"{path}/{name}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{path}: {value!r} is not a list"
            return
        if bool(value) != bool(shape):
            yield f"{path}: {len(value)} items"
        for at, item in enumerate(value if shape else ()):
            yield from differences(item, shape[0], request, f"{path}/{at}")
    elif not any(_fits(value, word, request) for word in shape.split("|")):
        yield f"{path}: {value!r} is not {shape}"


def _fits(value: Any, word: str, request: httpx.Request) -> bool:
    if word.endswith("?") and not word.startswith("="):
        return value is None or _fits(value, word[:-1], request)
    if word == "null":
        return value is None
    if word in _TYPES:
        return isinstance(value, _TYPES[word]) and (word == "bool" or not isinstance(value, bool))
    if not isinstance(value, str):
        return False
    if word.startswith("="):
        return value == word[1:]
    if word.startswith("id:"):
        return re.fullmatch(rf"[A-Za-z0-9]{{{word[3:]}}}", value) is not None
    if word == "here":
        return value == _address(str(request.url))
    if word == "next":
        without = [p for p in parse_qsl(urlsplit(value).query) if p[0] != "page[cursor]"]
        return "page%5Bcursor%5D=" in value and _address(
            value.partition("?")[0] + ("?" + urlencode(without) if without else "")
        ) == _address(str(request.url))
    return re.fullmatch(_PATTERNS[word], value) is not None


def _address(url: str) -> str:
    """The same address with its query percent-encoded."""
    place, _, query = url.partition("?")
    encoded = urlencode(parse_qsl(query, keep_blank_values=True))
    return place.rstrip("/") + (f"?{encoded}" if encoded else "")
