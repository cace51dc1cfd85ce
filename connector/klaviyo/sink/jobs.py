"""Import jobs and their results: every page of a job's errors is read.

Source: Klaviyo's reference of `get_bulk_import_profiles_jobs` and
`get_errors_for_bulk_import_profiles_job`. A job that is complete can have failures; a job can be
cancelled, expire (after seven days), or never end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from connector.domain.errors import Blocked, Problem
from connector.klaviyo.api import KlaviyoApi, documented_shape
from connector.klaviyo.limits import GET_IMPORT_ERRORS, GET_IMPORT_JOB, GET_IMPORT_JOBS
from connector.runtime.log import redact

_OPEN_FILTER = quote('any(status,["queued","processing"])', safe="")
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
        with documented_shape(GET_IMPORT_JOBS):
            return {str(job["id"]) async for page in pages for job in page}

    async def result(self, id: str) -> ImportJobResult | None:
        """None while the job runs. Raises DeliveryError when it cannot be read."""
        try:
            found = await self._api.get(GET_IMPORT_JOB, f"/api/profile-bulk-import-jobs/{id}")
        except Blocked as error:
            if error.status == 404:
                return ImportJobResult("lost", {})
            raise
        with documented_shape(GET_IMPORT_JOB):
            status = found["data"]["attributes"]["status"]
        if status in ("queued", "processing"):
            return None
        if status != "complete":
            return ImportJobResult("cancelled", {})
        return await self._failures(id)

    async def _failures(self, id: str) -> ImportJobResult:
        failed: dict[int, tuple[Problem, str]] = {}
        unmatched = 0
        path = f"/api/profile-bulk-import-jobs/{id}/import-errors?page[size]=100"
        async for page in self._api.pages(GET_IMPORT_ERRORS, path):
            for error in page:
                with documented_shape(GET_IMPORT_ERRORS):
                    attributes = error["attributes"]
                    position = _position(attributes)
                if position is None:
                    unmatched += 1
                else:
                    failed[position] = (Problem.IMPORT_REFUSED, _error_text(attributes))
        return ImportJobResult("complete", failed, unmatched)


def _position(error: Mapping[str, Any]) -> int | None:
    pointer = str((error.get("source") or {}).get("pointer") or "")
    index = pointer.removeprefix(_POINTER).partition("/")[0]
    return int(index) if pointer.startswith(_POINTER) and index.isdecimal() else None


def _error_text(error: Mapping[str, Any]) -> str:
    pointer = str((error.get("source") or {}).get("pointer") or "")
    inner = pointer.removeprefix(_POINTER).partition("/")[2]
    return redact(f"{error.get('code', '?')}: {error.get('title', '')} at /{inner}")
