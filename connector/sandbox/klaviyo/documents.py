"""Klaviyo's answers as JSON:API documents: links, `include`, sparse fields, additional fields.

Source: responses recorded live. `included` is there exactly when `include` was asked; a
relationship names its resources only where it was included. Guesses: an unknown name in `include`
or `fields` is a 400.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import URL, QueryParams
from starlette.requests import Request
from starlette.responses import Response

from connector.sandbox.klaviyo.errors import ApiJSON
from connector.sandbox.klaviyo.reads import InvalidParameter, cursor_text
from connector.sandbox.klaviyo.views import Resource

Relations = Mapping[tuple[str, str], Callable[[Resource, URL], list[Resource]]]
"""(type, relation) → the related resources of a resource of that type."""


class Documents:
    """Makes the answers of an account."""

    def __init__(self, relations: Relations) -> None:
        self._relations = relations

    def one(
        self,
        request: Request,
        resource: Resource,
        *,
        includes: Sequence[str] = (),
        status: int = 200,
    ) -> Response:
        """An answer with one resource. `includes`: the relations that may be included."""
        included = self._included(request, [resource], includes)
        links = {"self": _address(request.url, request.query_params)}
        shown = _sparse(resource, request.query_params)
        return ApiJSON({"data": shown, **included, "links": links}, status)

    def page(
        self,
        request: Request,
        resources: list[Resource],
        following: str | None = None,
        *,
        includes: Sequence[str] = (),
        previous: str | None = None,
    ) -> Response:
        """An answer with a page. `following`, `previous`: the cursors of the pages around it."""
        query, url = request.query_params, request.url
        included = self._included(request, resources, includes)
        links = {
            "self": _address(url, query),
            "next": None if following is None else _address(url, query, cursor_text(following)),
            "prev": None if previous is None else _address(url, query, previous),
        }
        data = [_sparse(resource, query) for resource in resources]
        return ApiJSON({"data": data, **included, "links": links})

    def _included(
        self, request: Request, resources: list[Resource], includes: Sequence[str]
    ) -> dict[str, list[Resource]]:
        names = _names(request.query_params, "include")
        found: dict[tuple[str, str], Resource] = {}
        for name in names:
            if name not in includes:
                raise InvalidParameter("include", f"'{name}' is not a valid relationship.")
            for resource in resources:
                related = self._relations[resource["type"], name](resource, request.url)
                reference = [{"type": each["type"], "id": each["id"]} for each in related]
                # An event has one profile and one metric, and names them in any case.
                resource["relationships"][name].setdefault("data", reference)
                found |= {(each["type"], each["id"]): each for each in related}
        included = [_sparse(each, request.query_params) for each in found.values()]
        return {"included": included} if names else {}


def _address(url: URL, query: QueryParams, cursor: str | None = None) -> str:
    """The request's address as Klaviyo repeats it, with another cursor."""
    pairs = query.multi_items()
    if cursor is not None:
        pairs = [pair for pair in pairs if pair[0] != "page[cursor]"] + [("page[cursor]", cursor)]
    place = f"{url.scheme}://{url.netloc}{url.path}"
    return f"{place}?{urlencode(pairs)}" if pairs else place


def _sparse(resource: Resource, query: QueryParams) -> Resource:
    """Only the attributes that `fields[type]` names, and those of `additional-fields`."""
    kind, attributes = resource["type"], resource.get("attributes")
    wanted = _names(query, f"fields[{kind}]")
    if not wanted or attributes is None:
        return resource
    kept = _picked(attributes, wanted, f"fields[{kind}]")
    extra = _names(query, f"additional-fields[{kind}]")
    return {**resource, "attributes": kept | {name: attributes[name] for name in extra}}


def _picked(attributes: dict[str, Any], wanted: Sequence[str], parameter: str) -> dict[str, Any]:
    """`email,location.city` of the attributes, in their order."""
    unknown = {name.partition(".")[0] for name in wanted} - attributes.keys() - {"id"}
    if unknown:
        raise InvalidParameter(parameter, f"'{min(unknown)}' is not a valid field.")
    kept: dict[str, Any] = {}
    for name, value in attributes.items():
        inner = [each.partition(".")[2] for each in wanted if each.startswith(f"{name}.")]
        if name in wanted:
            kept[name] = value
        elif inner:
            kept[name] = _picked(value, inner, parameter) if isinstance(value, dict) else value
    return kept


def _names(query: QueryParams, parameter: str) -> list[str]:
    return [name for name in query.get(parameter, "").split(",") if name]
