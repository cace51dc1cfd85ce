"""`/use-in-klaviyo/{name}`: the metrics and fields of a connection, and snippets for e-mails."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.console.session import Visit
from connector.console.view import page
from connector.mapping import load

_SNIPPETS = (
    ("balance", "Points", "You have {{ person|lookup:'%s'|default:0 }} points."),
    ("tier_name", "Tier", "You are a {{ person|lookup:'%s'|default:'member' }}."),
    (
        "wallet_pass_url",
        "Wallet pass",
        "<a href=\"{{ person|lookup:'%s' }}&platform=ios\">Add to Apple Wallet</a>\n"
        "<a href=\"{{ person|lookup:'%s' }}&platform=android\">Add to Google Wallet</a>",
    ),
)
"""End of a field's name → what it is, and a text for an e-mail (Klaviyo's template language)."""


@dataclass(frozen=True, slots=True)
class Snippet:
    title: str
    text: str


async def show(request: Request) -> Response:
    visit, name = Visit.of(request), request.path_params["name"]
    try:
        connection = visit.services.config().connection(name)
    except KeyError:
        raise HTTPException(404) from None
    mapping = load(connection.mapping, connection.mapping_changes).mapping
    rules = {rule.key: rule for rule in mapping.rules.values() if rule.enabled}
    fields = [field.name for field in mapping.fields]
    return await page(
        visit,
        "use_in_klaviyo.html",
        name=name,
        metrics=sorted(rule.metric for rule in rules.values()),
        fields=fields,
        attributes=[field.name for field in mapping.attributes],
        snippets=[*_snippets(fields)],
    )


def _snippets(fields: list[str]) -> list[Snippet]:
    found = []
    for ending, title, text in _SNIPPETS:
        field = next((field for field in fields if field.endswith(ending)), None)
        if field:
            found.append(Snippet(title, text.replace("%s", field)))
    return found


routes = [Route("/use-in-klaviyo/{name}", show, name="use_in_klaviyo")]
