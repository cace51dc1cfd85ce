"""Import jobs followed to their true end: every page of their errors is read.

Source: Klaviyo's reference of `get_bulk_import_profiles_jobs` and
`get_errors_for_bulk_import_profiles_job`. A job that is complete can hold failures; one can be
cancelled, or expire (seven days), or stand still.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from connector.domain.errors import Blocked, Problem
from connector.klaviyo.api import KlaviyoApi, unreadable_answer
from connector.klaviyo.limits import GET_IMPORT_ERRORS, GET_IMPORT_JOB, GET_IMPORT_JOBS
from connector.runtime.log import redact

_OPEN_FILTER = quote('any(status,["queued","processing"])', safe="")
_SHAPE_ERRORS = (AttributeError, KeyError, TypeError)
_POINTER = "/data/attributes/profiles/data/"


@dataclass(frozen=True, slots=True)
class ImportJobResult:
    """The result of a job: `failed` by position in the request; `lost` when it is unknown."""

    outcome: Literal["complete", "cancelled", "lost"]
    failed: Mapping[int, tuple[Problem, str]]
    unmatched: int = 0


class ImportJobs:
    """connector.ports.Jobs at Klaviyo."""

    def __init__(self, api: KlaviyoApi) -> None:
        self._api = api

    async def open(self) -> set[str]:
        """Ids of all jobs of the account that have not ended, ours or not."""
        pages = self._api.pages(
            GET_IMPORT_JOBS,
            f"/api/profile-bulk-import-jobs?filter={_OPEN_FILTER}&page[size]=100",
        )
        try:
            return {str(job["id"]) async for page in pages for job in page}
        except _SHAPE_ERRORS as error:
            raise unreadable_answer(GET_IMPORT_JOBS) from error

    async def result(self, id: str) -> ImportJobResult | None:
        """None while the job runs. Raises DeliveryError when Klaviyo cannot be asked."""
        try:
            found = await self._api.get(GET_IMPORT_JOB, f"/api/profile-bulk-import-jobs/{id}")
        except Blocked as error:
            if error.status == 404:
                return ImportJobResult("lost", {})
            raise
        try:
            status = found["data"]["attributes"]["status"]
        except _SHAPE_ERRORS as error:
            raise unreadable_answer(GET_IMPORT_JOB) from error
        if status in ("queued", "processing"):
            return None
        if status != "complete":
            return ImportJobResult("cancelled", {})
        return await self._failures(id)

    async def _failures(self, id: str) -> ImportJobResult:
        failed: dict[int, tuple[Problem, str]] = {}
        unplaced = 0
        path = f"/api/profile-bulk-import-jobs/{id}/import-errors?page[size]=100"
        async for page in self._api.pages(GET_IMPORT_ERRORS, path):
            for error in page:
                try:
                    attributes = error["attributes"]
                    position = _position(attributes)
                except _SHAPE_ERRORS as fault:
                    raise unreadable_answer(GET_IMPORT_ERRORS) from fault
                if position is None:
                    unplaced += 1
                else:
                    failed[position] = (Problem.IMPORT_REFUSED, _error_text(attributes))
        return ImportJobResult("complete", failed, unplaced)


def _position(error: Mapping[str, Any]) -> int | None:
    pointer = str((error.get("source") or {}).get("pointer") or "")
    index = pointer.removeprefix(_POINTER).partition("/")[0]
    return int(index) if pointer.startswith(_POINTER) and index.isdecimal() else None


def _error_text(error: Mapping[str, Any]) -> str:
    pointer = str((error.get("source") or {}).get("pointer") or "")
    inner = pointer.removeprefix(_POINTER).partition("/")[2]
    return redact(f"{error.get('code', '?')}: {error.get('title', '')} at /{inner}")
