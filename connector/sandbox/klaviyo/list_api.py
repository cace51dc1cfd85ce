"""Klaviyo's endpoints for lists; the lists themselves are in `lists.py`.

Sources: the published spec and responses recorded live.
Guesses: an unknown profile id makes the whole change fail with 404; members are listed in the order
of joining; `profile_count` counts members.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.sandbox.klaviyo import members, reads, views
from connector.sandbox.klaviyo.account import AccountState
from connector.sandbox.klaviyo.documents import Documents
from connector.sandbox.klaviyo.errors import unknown
from connector.sandbox.klaviyo.lists import MemberList
from connector.sandbox.klaviyo.profile_rules import parse_members
from connector.sandbox.klaviyo.rules import Violation, dig
from connector.sandbox.klaviyo.state import Profile

_OPT_IN = ("single_opt_in", "double_opt_in")
_INCLUDES = ("flow-triggers", "tags")
_MEMBERS = "/api/lists/{id}/relationships/profiles"


class ListApi:
    """The endpoints of lists."""

    def __init__(self, account: AccountState, documents: Documents) -> None:
        self._account = account
        self._documents = documents
        self.routes = [
            Route("/api/lists", self._create, methods=["POST"]),
            Route("/api/lists", self._all, methods=["GET"]),
            Route("/api/lists/{id}", self._one, methods=["GET"]),
            Route("/api/lists/{id}/profiles", self._profiles, methods=["GET"]),
            Route(_MEMBERS, self._ids, methods=["GET"]),
            Route(_MEMBERS, self._add, methods=["POST"]),
            Route(_MEMBERS, self._remove, methods=["DELETE"]),
        ]

    async def _create(self, request: Request) -> Response:
        account, found = self._account, []
        body = account.load(await request.body())
        attributes = dig(body, "data", "attributes")
        name = dig(attributes, "name")
        opt_in = dig(attributes, "opt_in_process") or "single_opt_in"
        if dig(body, "data", "type") != "list" or not isinstance(name, str) or not name:
            found.append(Violation("shape", "/data/attributes/name", "A name is required."))
        if opt_in not in _OPT_IN:
            detail = f"One of {', '.join(_OPT_IN)} is required."
            found.append(Violation("shape", "/data/attributes/opt_in_process", detail))
        account.check(found)
        created = account.lists.create(name, opt_in, account.now())
        view = views.member_list(created, request.url, exact=True)
        return self._documents.one(request, view, status=201)

    async def _all(self, request: Request) -> Response:
        query, found = request.query_params, self._account.lists.all
        previous = None
        for operator, name, values in reads.terms(query.get("filter", "")):
            if operator in ("equals", "any") and name in ("id", "name"):
                found = [each for each in found if getattr(each, name) in values]
                if (operator, name) == ("any", "id"):
                    # Recorded live on a first and only page: a link that leads nowhere.
                    previous = f"<Filters: {query['filter']}>"
            elif operator == "greater-than" and name in ("created", "updated"):
                edge = reads.parse_time(values[0])
                found = [each for each in found if getattr(each, name) > edge]
            else:
                raise reads.InvalidParameter(
                    "filter", f"'{name}' cannot be filtered by '{operator}'."
                )
        size, start = reads.size_of(query, default=10, most=10), reads.offset_of(query)
        following = str(start + size) if len(found) > start + size else None
        page = [views.member_list(each, request.url) for each in found[start : start + size]]
        return self._documents.page(request, page, following, includes=_INCLUDES, previous=previous)

    async def _one(self, request: Request) -> Response:
        found, query = self._list(request), request.query_params
        view = views.member_list(found, request.url)
        if query.get("additional-fields[list]") == "profile_count":
            view["attributes"]["profile_count"] = len(found.members)
        return self._documents.one(request, view, includes=_INCLUDES)

    async def _profiles(self, request: Request) -> Response:
        page = members.profiles(self._page(request), request.query_params, request.url)
        return self._documents.page(request, *page)

    async def _ids(self, request: Request) -> Response:
        return self._documents.page(request, *members.ids(self._page(request)))

    async def _add(self, request: Request) -> Response:
        found, now = self._list(request), self._account.now()
        for person in await self._members(request):
            found.join(person, now)
        return Response(status_code=204)

    async def _remove(self, request: Request) -> Response:
        found = self._list(request)
        for person in await self._members(request):
            found.leave(person)
        return Response(status_code=204)

    def _list(self, request: Request) -> MemberList:
        id = str(request.path_params["id"])
        found = self._account.lists.get(id)
        if found is None:
            raise unknown("list", id)
        return found

    async def _members(self, request: Request) -> list[Profile]:
        account = self._account
        ids, found = parse_members(account.load(await request.body()))
        account.check(found)
        people = []
        for index, id in enumerate(ids):
            person = account.memory.by_id(id)
            if person is None:
                account.violations["profile_unknown"] += 1
                raise unknown("profile", id, f"/data/{index}/id")
            people.append(person)
        return people

    def _page(self, request: Request) -> members.Page:
        people = self._list(request)
        return members.page_of(self._account.memory, people, request.query_params)
