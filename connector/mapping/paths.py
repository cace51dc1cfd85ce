"""Paths into a view: `a.b`, `a."with space"`, `a[0]`. Source of the grammar: docs/mappings.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

Segment: TypeAlias = str | int
Getter: TypeAlias = Callable[[Any], Any]


class Missing:
    """The type of `MISSING`: no value at a path. It is false and equal to itself only."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()


class PathError(ValueError):
    """The text is not a path; the message says where and why."""


_KEY = re.compile(r'"((?:[^"\\]|\\["\\])*)"|([^\s.\[\]"\\]+)')
_INDEX = re.compile(r"\[([0-9]{1,6})\]")
_BARE = re.compile(r'[^\s.\[\]"\\]+')
_ESCAPE = re.compile(r'\\(["\\])')


def parse_path(text: str) -> tuple[Segment, ...]:
    """The segments of a path: a text for a key, a whole number for an index.

    Raises PathError if the text does not follow the grammar.
    """
    segments: list[Segment] = []
    at = 0
    while True:
        key = _KEY.match(text, at)
        if key is None:
            raise PathError(f"a name is missing at character {at + 1}")
        quoted, bare = key.groups()
        segments.append(bare if bare is not None else _ESCAPE.sub(r"\1", quoted))
        at = key.end()
        while index := _INDEX.match(text, at):
            segments.append(int(index[1]))
            at = index.end()
        if at == len(text):
            return tuple(segments)
        if text[at] != ".":
            raise PathError(f"{text[at]!r} at character {at + 1} is not expected there")
        at += 1


def format_path(segments: Sequence[Segment]) -> str:
    """The text of a path: `parse_path(format_path(s)) == s` for every non-empty path."""
    text = ""
    for segment in segments:
        if isinstance(segment, int):
            text += f"[{segment}]"
            continue
        if not _BARE.fullmatch(segment):
            segment = '"' + segment.replace("\\", "\\\\").replace('"', '\\"') + '"'
        text += f".{segment}" if text else segment
    return text


def getter(segments: Sequence[Segment]) -> Getter:
    """A function from a view to the value at this path, or MISSING. It raises nothing."""
    # A text key on anything but an object is a TypeError, so only an index needs a check of the
    # type: the first character of a text is not an item of it.
    if all(isinstance(segment, str) for segment in segments):
        if len(segments) == 1:
            return _one(segments[0])
        if len(segments) == 2:
            return _two(segments[0], segments[1])
        if len(segments) == 3:
            return _three(segments[0], segments[1], segments[2])
    return _many(tuple(segments))


def _one(a: Segment) -> Getter:
    def get(view: Any) -> Any:
        try:
            return view[a]
        except (KeyError, TypeError):
            return MISSING

    return get


def _two(a: Segment, b: Segment) -> Getter:
    def get(view: Any) -> Any:
        try:
            return view[a][b]
        except (KeyError, TypeError):
            return MISSING

    return get


def _three(a: Segment, b: Segment, c: Segment) -> Getter:
    def get(view: Any) -> Any:
        try:
            return view[a][b][c]
        except (KeyError, TypeError):
            return MISSING

    return get


def _many(segments: tuple[Segment, ...]) -> Getter:
    def get(view: Any) -> Any:
        value = view
        for segment in segments:
            if isinstance(segment, int):
                if not isinstance(value, list) or segment >= len(value):
                    return MISSING
                value = value[segment]
            else:
                try:
                    value = value[segment]
                except (KeyError, TypeError):
                    return MISSING
        return value

    return get


def is_blank(value: Any) -> bool:
    """Whether a value means "no value": MISSING, null, an empty text, or the dash that some
    platforms send for it."""
    if isinstance(value, str):
        return not value or value == "-" or value.strip() in ("", "-")
    return value is None or value is MISSING
