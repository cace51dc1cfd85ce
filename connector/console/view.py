"""Templates, and how numbers, times and states are written on pages."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from connector import __version__
from connector.console.chart import HEIGHT, WIDTH
from connector.console.session import Visit
from connector.domain.wording import counted, format_age

NAVIGATION = (
    ("overview", "/", "Overview"),
    ("attention", "/attention", "Needs you"),
    ("dead_letters", "/dead-letters", "Failed"),
    ("backfills", "/backfills", "Backfills"),
    ("people", "/people", "People"),
    ("webhook_builder", "/webhook-builder", "Webhook builder"),
    ("audit", "/audit", "Audit"),
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


def commands(text: str) -> Markup:
    """Text whose `commands` are marked as such."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


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
    found.filters |= {"duration": duration, "number": number, "rate": rate, "commands": commands}
    found.globals |= {
        "asset": asset,
        "version": __version__,
        "counted": counted,
        "chart_size": (WIDTH, HEIGHT),
    }
    return found


async def page(visit: Visit, template: str, *, status: int = 200, **values: Any) -> Response:
    """A page for `visit`. `values` are the template's."""
    attention = (await visit.services.commands.latest_status()).attention
    now = visit.services.clock.now()
    text = (
        environment()
        .get_template(template)
        .render(
            navigation=NAVIGATION,
            path=visit.request.url.path,
            csrf=lambda: Markup('<input type="hidden" name="csrf_token" value="{}">').format(
                visit.csrf_token
            ),
            can_change=visit.principal.is_operator,
            signed_in=visit.principal.session is not None,
            flash=visit.flash(),
            needs_you=len(attention),
            now=now,
            ago=lambda at: "never" if at is None else f"{format_age((now - at) / 1000)} ago",
            **values,
        )
    )
    return visit.finish(HTMLResponse(text, status))


def plain_page(template: str, *, status: int = 200, **values: Any) -> Response:
    """A page for a person who is not signed in."""
    return HTMLResponse(environment().get_template(template).render(**values), status)


def error_page(request: Request, status: int, title: str, detail: str) -> Response:
    return plain_page("error.html", status=status, title=title, detail=detail)
