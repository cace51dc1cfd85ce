"""Templates, and how numbers, times and states are written on pages."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from connector import __version__
from connector.console.chart import HEIGHT, WIDTH
from connector.console.session import Visit
from connector.domain.remedies import in_console
from connector.domain.wording import counted, format_age
from connector.service.status import Status

NAVIGATION = (
    ("overview", "/", "Overview"),
    ("attention", "/attention", "Needs you"),
    ("dead_letters", "/dead-letters", "Failed"),
    ("backfills", "/backfills", "Backfills"),
    ("people", "/people", "People"),
    ("webhook_builder", "/webhook-builder", "Webhook builder"),
    ("audit", "/audit", "Audit"),
)


def content_policy(form_action: str = "") -> str:
    """What a page may load, and besides this server the origins to which its forms may lead."""
    targets = f"'self' {form_action}".strip()
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        f"connect-src 'self'; form-action {targets}; base-uri 'none'; frame-ancestors 'none'"
    )


def duration(seconds: float | None) -> str:
    """`4 min`; a dash where it is not known."""
    return "–" if seconds is None else format_age(seconds)


def number(value: float | None) -> str:
    """`12,345`; a dash where it is not known."""
    return "–" if value is None else f"{value:,.0f}"


def rate(per_second: float) -> str:
    """`120/min`, or `12/s` for many."""
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second * 60:,.0f}/min"


_MARK = re.compile(r"`([^`]*)`|\[([^]]*)\]\((/[^()]*)\)")


def advice(text: str) -> Markup:
    """What to do as a sentence: its `commands` and [pages](/path) are marked as such."""
    found, end = Markup(""), 0
    for mark in _MARK.finditer(text):
        found += escape(text[end : mark.start()])
        command, label, path = mark.groups()
        if path is None:
            found += Markup("<code>{}</code>").format(command)
        else:
            found += Markup('<a href="{}">{}</a>').format(path, label)
        end = mark.end()
    found += escape(text[end:])
    return found if found.startswith("<") else found[:1].upper() + found[1:]


_TOKEN = secrets.token_hex(16)
"""The place of a visit's token in text that is shared."""


@lru_cache
def asset(name: str) -> str:
    """The URL of a static file, which changes with its content."""
    content = (files("connector.console") / "static" / name).read_bytes()
    return f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"


@lru_cache
def environment() -> Environment:
    found = Environment(
        loader=PackageLoader("connector.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"duration": duration, "number": number, "rate": rate, "advice": advice}
    found.globals |= {
        "asset": asset,
        "version": __version__,
        "counted": counted,
        "in_console": in_console,
        "chart_size": (WIDTH, HEIGHT),
    }
    return found


async def page(visit: Visit, template: str, *, status: int = 200, **values: Any) -> Response:
    """A page for `visit`. `values` are the template's."""
    attention = (await visit.services.commands.latest_status()).attention
    token, flash = visit.csrf_token, visit.flash()
    text = _render(visit, template, len(attention), token, flash, values)
    return visit.finish(HTMLResponse(text, status))


class SharedPage:
    """A page that is the same for all who have the same rights, but for the token of their forms:
    rendered once for each status document, however many tabs show it.

    `regions` are the ids of the elements that follow changes. The content of each is a block.
    """

    def __init__(self, template: str, regions: tuple[str, ...]) -> None:
        self._template = template
        self._regions = regions
        self._texts: dict[_Rights, str] = {}
        self._document: Status | None = None
        self._updates: dict[_Rights, _Updates] = {}

    def of(self, visit: Visit, document: Status, values: Callable[[], dict[str, Any]]) -> Response:
        """`values` are the template's, made of `document`."""
        flash = visit.flash()
        if document is not self._document:
            self._texts, self._document = {}, document
        rights = _rights(visit)
        text = self._texts.get(rights)
        if text is None or flash is not None:
            count = len(document.attention)
            text = _render(visit, self._template, count, _TOKEN, flash, values())
            if flash is None:
                self._texts[rights] = text
        return visit.finish(HTMLResponse(text.replace(_TOKEN, visit.csrf_token)))

    def updates(
        self,
        visit: Visit,
        document: Status,
        values: Callable[[], dict[str, Any]],
        seen: Status | None,
    ) -> bytes:
        """A JSON object of the regions that differ from those of the document that a tab has
        `seen`, all for None: their HTML by id. Encoded once for all tabs."""
        known = self._updates.get(_rights(visit))
        if known is None or known.document is not document:
            html = self._render_regions(visit, document, values())
            known = self._updates[_rights(visit)] = _Updates.after(known, document, html)
        found = known.changed if seen is not None and seen is known.before else known.all
        return found.replace(_TOKEN.encode(), visit.csrf_token.encode())

    def _render_regions(
        self, visit: Visit, document: Status, values: dict[str, Any]
    ) -> dict[str, str]:
        template = environment().get_template(self._template)
        blocks = {**environment().get_template("base.html").blocks, **template.blocks}
        found = _context(visit, len(document.attention), _TOKEN, None, values)
        context = template.new_context(found)
        return {id: "".join(blocks[id.replace("-", "_")](context)) for id in self._regions}


_Rights = tuple[bool, bool]


def _rights(visit: Visit) -> _Rights:
    return visit.principal.is_operator, visit.principal.session is not None


@dataclass(frozen=True, slots=True)
class _Updates:
    """The regions of a `document` as JSON, and those that differ from the document `before`."""

    document: Status
    html: dict[str, str]
    all: bytes
    before: Status | None
    changed: bytes

    @classmethod
    def after(cls, known: _Updates | None, document: Status, html: dict[str, str]) -> _Updates:
        old = known.html if known else {}
        changed = {id: text for id, text in html.items() if old.get(id) != text}
        before = known.document if known else None
        return cls(document, html, orjson.dumps(html), before, orjson.dumps(changed))


def _render(
    visit: Visit,
    template: str,
    needs_you: int,
    token: str,
    flash: tuple[str, bool] | None,
    values: dict[str, Any],
) -> str:
    context = _context(visit, needs_you, token, flash, values)
    return environment().get_template(template).render(context)


def _context(
    visit: Visit,
    needs_you: int,
    token: str,
    flash: tuple[str, bool] | None,
    values: dict[str, Any],
) -> dict[str, Any]:
    now = visit.services.clock.now()
    field = Markup('<input type="hidden" name="csrf_token" value="{}">').format(token)
    return {
        "navigation": NAVIGATION,
        "path": visit.request.url.path,
        "csrf": lambda: field,
        "can_change": visit.principal.is_operator,
        "signed_in": visit.principal.session is not None,
        "flash": flash,
        "needs_you": needs_you,
        "now": now,
        "ago": lambda at: "never" if at is None else f"{format_age((now - at) / 1000)} ago",
        **values,
    }


def plain_page(template: str, *, status: int = 200, **values: Any) -> Response:
    """A page for a person who is not signed in."""
    return HTMLResponse(environment().get_template(template).render(**values), status)


def error_page(request: Request, status: int, title: str, detail: str) -> Response:
    return plain_page("error.html", status=status, title=title, detail=detail)
