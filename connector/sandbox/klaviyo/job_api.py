"""Klaviyo's endpoints for bulk profile imports; the jobs themselves are in `jobs.py`.

Sources: the published spec; the response to a new job, its ids and links as recorded live.
Guesses: an unknown list makes the request fail with 404; jobs are listed oldest first by default.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.sandbox.klaviyo import reads, views
from connector.sandbox.klaviyo.account import AccountState
from connector.sandbox.klaviyo.documents import Documents
from connector.sandbox.klaviyo.errors import not_found, unknown
from connector.sandbox.klaviyo.jobs import Job
from connector.sandbox.klaviyo.profile_rules import parse_job

_PATH = "/api/profile-bulk-import-jobs"
_SORTS = ("created_at", "-created_at")


class JobApi:
    """The endpoints. `first`: a 400 names only the first bad profile."""

    def __init__(self, account: AccountState, documents: Documents, *, first: bool) -> None:
        self._account = account
        self._documents = documents
        self._first = first
        self.routes = [
            Route(_PATH, self._create, methods=["POST"]),
            Route(_PATH, self._all, methods=["GET"]),
            Route(_PATH + "/{id}", self._one, methods=["GET"]),
            Route(_PATH + "/{id}/import-errors", self._errors, methods=["GET"]),
            Route(_PATH + "/{id}/profiles", self._profiles, methods=["GET"]),
        ]

    async def _create(self, request: Request) -> Response:
        account, body = self._account, await request.body()
        people, lists, found = parse_job(account.load(body), len(body))
        account.check(found, first=self._first)
        for index, id in enumerate(lists):
            if account.lists.get(id) is None:
                account.violations["list_unknown"] += 1
                raise unknown("list", id, f"/data/relationships/lists/data/{index}/id")
        job = account.jobs.add(people, lists)
        return self._documents.one(request, self._view(job, request, new=True), status=202)

    async def _all(self, request: Request) -> Response:
        query, now = request.query_params, self._account.now()
        found = self._account.jobs.all()
        for operator, name, values in reads.terms(query.get("filter", "")):
            if operator not in ("equals", "any") or name != "status":
                raise reads.InvalidParameter(
                    "filter", f"'{name}' cannot be filtered by '{operator}'."
                )
            found = [job for job in found if job.status(now) in values]
        sort = query.get("sort", "created_at")
        if sort not in _SORTS:
            raise reads.InvalidParameter("sort", f"'{sort}' is not a valid sort.")
        if sort.startswith("-"):
            found.reverse()
        size, start = reads.size_of(query, default=20, most=100), reads.offset_of(query)
        following = str(start + size) if len(found) > start + size else None
        page = [self._view(job, request) for job in found[start : start + size]]
        return self._documents.page(request, page, following)

    async def _one(self, request: Request) -> Response:
        return self._documents.one(
            request, self._view(self._job(request), request), includes=("lists",)
        )

    async def _errors(self, request: Request) -> Response:
        job, query = self._job(request), request.query_params
        size, start = reads.size_of(query, default=20, most=100), reads.offset_of(query)
        following = str(start + size) if len(job.errors) > start + size else None
        page = [views.import_error(job, error) for error in job.errors[start : start + size]]
        return self._documents.page(request, page, following)

    async def _profiles(self, request: Request) -> Response:
        job, query = self._job(request), request.query_params
        shown, memory = reads.extras(query), self._account.memory
        size, start = reads.size_of(query, default=20, most=100), reads.offset_of(query)
        following = str(start + size) if len(job.profiles) > start + size else None
        people = [memory.by_number(number) for number in job.profiles[start : start + size]]
        page = [views.profile(person, request.url, shown) for person in people]
        return self._documents.page(request, page, following)

    def _job(self, request: Request) -> Job:
        id = str(request.path_params["id"])
        job = self._account.jobs.get(id)
        if job is None:
            raise not_found("Invalid job id")
        return job

    def _view(self, job: Job, request: Request, *, new: bool = False) -> views.Resource:
        return views.job(job, self._account.now(), request.url, new=new)
