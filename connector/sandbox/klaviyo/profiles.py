"""Klaviyo's endpoints for profiles: import, create, update, read.

Sources: the published spec; 409 as recorded live; the misleading 404 as users reported it.
Guesses: an import with an unknown id is answered 404; an import with an id and another profile's
phone number or external id is answered 409; `duplicate_profile_id` is the owner of the conflicting
identifier; `properties: null` clears all properties; a null that would clear the last identifier is
rejected.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.sandbox.klaviyo import reads, views
from connector.sandbox.klaviyo.account import AccountState
from connector.sandbox.klaviyo.documents import Documents
from connector.sandbox.klaviyo.errors import duplicate, not_found, unknown
from connector.sandbox.klaviyo.profile_rules import (
    MAX_PROFILE_BYTES,
    parse_create,
    parse_import,
    parse_update,
)
from connector.sandbox.klaviyo.rules import EVENT_IDENTIFIERS, ProfileIn, Violation
from connector.sandbox.klaviyo.state import Profile

_INCLUDES = ("conversations", "lists", "push-tokens", "segments")


class ProfileApi:
    """The endpoints of profiles."""

    def __init__(self, account: AccountState, documents: Documents) -> None:
        self._account = account
        self._documents = documents
        self.routes = [
            Route("/api/profile-import", self._import, methods=["POST"]),
            Route("/api/profiles", self._create, methods=["POST"]),
            Route("/api/profiles", self._all, methods=["GET"]),
            Route("/api/profiles/{id}", self._update, methods=["PATCH"]),
            Route("/api/profiles/{id}", self._one, methods=["GET"]),
            Route("/api/data-privacy-deletion-jobs", self._erase, methods=["POST"]),
        ]

    async def _erase(self, request: Request) -> Response:
        """Record the request. Klaviyo deletes profiles asynchronously; the sandbox does not."""
        account = self._account
        body = account.load(await request.body(), MAX_PROFILE_BYTES)
        try:
            data = body["data"]["attributes"]["profile"]["data"]
            named = dict(data.get("attributes") or {}) | (
                {"id": data["id"]} if "id" in data else {}
            )
            [(name, value)] = named.items()
            valid = body["data"]["type"] == "data-privacy-deletion-job"
        except (KeyError, TypeError, ValueError, AttributeError):
            valid, name, value = False, "", ""
        if not valid or name not in ("email", "phone_number", "id") or not isinstance(value, str):
            detail = "Exactly one of email, phone_number and id is required."
            account.check([Violation("erasure", "/data/attributes/profile", detail)])
        memory = account.memory
        if (memory.by_id(value) if name == "id" else memory.by(name, value)) is None:
            raise not_found(
                f'No profile with {name} "{value}" found.  The profile may have already been '
                "deleted."
            )
        account.memory.erasures.append(value)
        return Response(status_code=202)

    async def _import(self, request: Request) -> Response:
        account = self._account
        given, found = parse_import(account.load(await request.body(), MAX_PROFILE_BYTES))
        account.check(found)
        assert given is not None
        profile = account.memory.find(given)
        if profile is None and given.id is not None:
            raise unknown("profile", given.id)
        clash = account.memory.clash(given, profile)
        if clash is not None:
            name, owner = clash
            if given.id is not None and name == "email":
                # The id does exist; users reported this response nevertheless.
                raise unknown("profile", given.id)
            raise duplicate(owner.id)
        return self._write(request, given, profile, 201 if profile is None else 200)

    async def _create(self, request: Request) -> Response:
        account = self._account
        given, found = parse_create(account.load(await request.body(), MAX_PROFILE_BYTES))
        account.check(found)
        assert given is not None
        clash = account.memory.clash(given, None)
        if clash is not None:
            raise duplicate(clash[1].id)
        return self._write(request, given, None, 201)

    async def _update(self, request: Request) -> Response:
        account, id = self._account, str(request.path_params["id"])
        profile = account.memory.by_id(id)
        if profile is None:
            raise unknown("profile", id)
        given, found = parse_update(account.load(await request.body(), MAX_PROFILE_BYTES), id)
        account.check(found)
        assert given is not None
        clash = account.memory.clash(given, profile)
        if clash is not None:
            raise duplicate(clash[1].id)
        return self._write(request, given, profile, 200)

    def _write(
        self, request: Request, given: ProfileIn, profile: Profile | None, status: int
    ) -> Response:
        account, now = self._account, self._account.now()
        shown = reads.extras(request.query_params)
        if profile is not None:
            left = {**profile.identifiers, **given.attributes}
            if all(left.get(name) is None for name in EVENT_IDENTIFIERS):
                detail = "A profile needs at least one identifier."
                account.check([Violation("identifier_missing", "/data/attributes", detail)])
        account.ledger.note("single", given, profile, now)
        if profile is None:
            profile = account.memory.create(now)
        account.memory.update(profile, given, now)
        exact = ("created", "updated") if status == 201 else ("updated",)
        view = views.profile(profile, request.url, shown, exact=exact)
        return self._documents.one(request, view, status=status)

    async def _all(self, request: Request) -> Response:
        page = reads.profiles(self._account.memory, request.query_params, request.url)
        return self._documents.page(request, *page, includes=("conversations", "push-tokens"))

    async def _one(self, request: Request) -> Response:
        id = str(request.path_params["id"])
        found = self._account.memory.by_id(id)
        if found is None:
            raise unknown("profile", id)
        shown = reads.extras(request.query_params)
        view = views.profile(found, request.url, shown, conversations="conversations")
        return self._documents.one(request, view, includes=_INCLUDES)
