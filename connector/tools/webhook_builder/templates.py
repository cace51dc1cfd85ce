"""Klaviyo's templates as they stand in a webhook's body: checked, and made safe for JSON.

Klaviyo renders a body with Django's template language and most of Django's filters (its filter
glossary), then sends what came out. Every variable stands inside a JSON string here and ends in
`escapejs`, which writes quotes, backslashes, line breaks and control characters as `\\uXXXX`: valid
JSON whatever the value. Text around variables is escaped as JSON by whoever writes the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_MIN_VALUE_LENGTH = 10
"""Letters of a variable's value that a text must have room for."""

_PATH = r"[A-Za-z_]\w*(?:\.\w+)*"
# Neither quotes nor backslashes: what stands in a template must read the same before and after it
# is written into JSON.
_ARGUMENT = rf"'[^'\"\\{{}}\n]*'|-?\d+(?:\.\d+)?|{_PATH}"
_VARIABLE = re.compile(rf"\s*({_PATH})", re.ASCII)
_FILTER = re.compile(rf"\s*\|\s*([A-Za-z_]\w*)(?:\s*:\s*({_ARGUMENT}))?")
_TEMPLATE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)

_ROOTS = frozenset({"event", "person", "email", "first_name", "last_name", "organization"})
"""What a webhook's template can speak of (facts: Klaviyo, 11.1)."""


class InvalidStep(ValueError):
    """What was asked for cannot be built. `faults` holds one line for each reason."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


@dataclass(frozen=True, slots=True)
class Expression:
    """What stands between `{{` and `}}`, in the writing without spaces that Klaviyo asks for."""

    root: str
    text: str

    def render(self, *filters: str) -> str:
        """The template that shows its value inside a JSON string."""
        return "{{ " + "|".join((self.text, *filters, "escapejs")) + " }}"


@dataclass(frozen=True, slots=True)
class Text:
    """A text with variables: `parts` alternates literal text and expressions."""

    parts: tuple[str | Expression, ...]

    @property
    def expressions(self) -> Iterator[Expression]:
        return (part for part in self.parts if isinstance(part, Expression))

    def render(self, limit: int) -> str:
        """The text for a JSON string. However long the values are, it will not be longer than
        `limit` letters. Raises Unfit when there is no room for them."""
        expressions = list(self.expressions)
        literal = sum(len(part) for part in self.parts if isinstance(part, str))
        room = limit - literal
        if room < 0 or (expressions and room // len(expressions) < _MIN_VALUE_LENGTH):
            raise InvalidStep(f"is too long: {limit} letters at most, with room for its variables")
        cut = f"truncatechars:{room // len(expressions)}" if expressions else ""
        return self._render(cut)

    def render_full(self) -> str:
        """The text for a JSON string, nothing of it cut."""
        return self._render()

    def _render(self, *filters: str) -> str:
        return "".join(
            part if isinstance(part, str) else part.render(*filters) for part in self.parts
        )


def text(written: str) -> Text:
    """A text as a person wrote it. Raises Unfit where it is no text with `{{ variables }}`."""
    parts: list[str | Expression] = []
    for place, piece in enumerate(_TEMPLATE.split(written)):
        if place % 2:
            parts.append(expression(piece))
        elif "{" in piece or "}" in piece:
            raise InvalidStep("may hold {{ variables }} and no other braces")
        elif piece:
            parts.append(piece)
    return Text(tuple(parts))


def expression(written: str) -> Expression:
    """What stands between the braces: a variable, then filters. Raises Unfit, saying why not."""
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
        raise InvalidStep(
            f"{{{{ {path} }}}} is nothing that Klaviyo has: begin with event or person"
        )
    return Expression(root, "|".join((path, *filters)))


def _syntax_hint(written: str) -> str:
    shown = written.strip()
    if '"' in shown:
        return f"{{{{ {shown} }}}}: write '…' instead of \"…\" inside the braces"
    if re.search(r"\.[\w.]*[$ -]", shown):
        return f"{{{{ {shown} }}}}: a name with $, - or a space is read with |lookup:'the name'"
    return f"{{{{ {shown} }}}} is no variable with filters, as in {{{{ event.x|default:'y' }}}}"
