"""Klaviyo templates inside a webhook's body: parsed, checked and made safe for JSON.

Klaviyo renders the body with Django's template language and most of Django's filters (its filter
glossary), then sends the result. Every variable is inside a JSON string and ends in `escapejs`,
which writes quotes, backslashes, line breaks and control characters as `\\uXXXX`: the result is
valid JSON for any value. The text around variables is escaped by the JSON encoder of the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_MIN_VALUE_LENGTH = 10
"""Characters of each variable's value that must fit into a text."""

_PATH = r"[A-Za-z_]\w*(?:\.\w+)*"
# Neither quotes nor backslashes: a template must be the same before and after JSON encoding.
_ARGUMENT = rf"'[^'\"\\{{}}\n]*'|-?\d+(?:\.\d+)?|{_PATH}"
_VARIABLE = re.compile(rf"\s*({_PATH})", re.ASCII)
_FILTER = re.compile(rf"\s*\|\s*([A-Za-z_]\w*)(?:\s*:\s*({_ARGUMENT}))?")
_TEMPLATE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)

_ROOTS = frozenset({"event", "person", "email", "first_name", "last_name", "organization"})
"""The variables that Klaviyo has in a webhook's template."""


class InvalidStep(ValueError):
    """The step cannot be built. `faults` has one line per fault."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


@dataclass(frozen=True, slots=True)
class Expression:
    """The expression between `{{` and `}}`, without spaces, as Klaviyo requires."""

    root: str
    text: str

    def render(self, *filters: str) -> str:
        """The template for its value inside a JSON string."""
        return "{{ " + "|".join((self.text, *filters, "escapejs")) + " }}"


@dataclass(frozen=True, slots=True)
class Text:
    """A text with variables: literal parts and expressions."""

    parts: tuple[str | Expression, ...]

    @property
    def expressions(self) -> Iterator[Expression]:
        return (part for part in self.parts if isinstance(part, Expression))

    def render(self, limit: int) -> str:
        """The text for a JSON string, with the values truncated so that the result has at most
        `limit` characters. Raises InvalidStep if the values do not fit."""
        expressions = list(self.expressions)
        literal = sum(len(part) for part in self.parts if isinstance(part, str))
        available = limit - literal
        if available < 0 or (expressions and available // len(expressions) < _MIN_VALUE_LENGTH):
            raise InvalidStep(f"is too long: at most {limit} characters, including its variables")
        cut = f"truncatechars:{available // len(expressions)}" if expressions else ""
        return self._render(cut)

    def render_full(self) -> str:
        """The text for a JSON string, not truncated."""
        return self._render()

    def _render(self, *filters: str) -> str:
        return "".join(
            part if isinstance(part, str) else part.render(*filters) for part in self.parts
        )


def text(written: str) -> Text:
    """Parse a text with `{{ variables }}`. Raises InvalidStep."""
    parts: list[str | Expression] = []
    for place, piece in enumerate(_TEMPLATE.split(written)):
        if place % 2:
            parts.append(expression(piece))
        elif "{" in piece or "}" in piece:
            raise InvalidStep("may contain {{ variables }} but no other braces")
        elif piece:
            parts.append(piece)
    return Text(tuple(parts))


def expression(written: str) -> Expression:
    """Parse the expression between the braces: a variable, then filters. Raises InvalidStep."""
    start = _VARIABLE.match(written)
    if start is None:
        raise InvalidStep(_syntax_hint(written))
    path, end = start[1], start.end()
    filters = []
    while found := _FILTER.match(written, end):
        filters.append(found[1] if found[2] is None else f"{found[1]}:{found[2]}")
        end = found.end()
    if written[end:].strip():
        raise InvalidStep(_syntax_hint(written))
    root = path.partition(".")[0]
    if root not in _ROOTS:
        raise InvalidStep(f"{{{{ {path} }}}} does not exist at Klaviyo: start with event or person")
    return Expression(root, "|".join((path, *filters)))


def _syntax_hint(written: str) -> str:
    shown = written.strip()
    if '"' in shown:
        return f"{{{{ {shown} }}}}: write '…' instead of \"…\" inside the braces"
    if re.search(r"\.[\w.]*[$ -]", shown):
        return f"{{{{ {shown} }}}}: a name with $, - or a space is read with |lookup:'the name'"
    return (
        f"{{{{ {shown} }}}} is not a variable with filters, such as {{{{ event.x|default:'y' }}}}"
    )
