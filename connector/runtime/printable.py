"""Text of remote systems without its control characters.

A name that a platform sends may contain escape sequences, which move a terminal's cursor, set the
title of its window or answer as if typed, and characters that reorder what is read.
"""

from __future__ import annotations

_CONTROLS = {
    *range(0x20),
    *range(0x7F, 0xA0),  # DEL and C1
    *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
}
_ESCAPED = {c: f"\\x{c:02x}" if c < 0x100 else f"\\u{c:04x}" for c in _CONTROLS}
_ESCAPED_BUT_LINES = {c: text for c, text in _ESCAPED.items() if chr(c) not in "\n\t"}


def printable(text: str) -> str:
    """The text with control characters as `\\x1b`; line ends and tabs stay."""
    return text.translate(_ESCAPED_BUT_LINES)


def one_line(text: str) -> str:
    """`printable` for a value inside a line: a line end in it cannot begin a line of its own."""
    return text.translate(_ESCAPED)
