"""Klaviyo's SDK reads the sandbox's answers to every operation of the connector, and knows all that
they contain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openapi_client.models
import pytest

from connector.klaviyo import limits

from .klaviyo_account import filled_account
from .klaviyo_case import Case
from .klaviyo_reads import READS
from .klaviyo_writes import WRITES

MODELS = {
    limits.GET_ACCOUNTS: "GetAccountResponseCollection",
    limits.GET_METRICS: "GetMetricResponseCollectionCompoundDocument",
    limits.GET_EVENTS: "GetEventResponseCollectionCompoundDocument",
    limits.GET_PROFILES: "GetProfileResponsePluralConversationsCollectionCompoundDocument",
    limits.GET_PROFILE: "GetProfileResponsePluralConversationsCompoundDocument",
    limits.UPSERT_PROFILE: "PostProfileResponse",
    limits.PATCH_PROFILE: "PatchProfileResponse",
    limits.BULK_PROFILES: "PostProfileImportJobResponse",
    limits.GET_IMPORT_JOBS: "GetProfileImportJobResponseCollectionCompoundDocument",
    limits.GET_IMPORT_JOB: "GetProfileImportJobResponseCompoundDocument",
    limits.GET_IMPORT_ERRORS: "GetImportErrorResponseCollection",
    limits.GET_LIST: "GetListRetrieveResponseCompoundDocument",
    limits.GET_LIST_COUNT: "GetListRetrieveResponseCompoundDocument",
    limits.GET_LISTS: "GetListListResponseCollectionCompoundDocument",
    limits.GET_LIST_PROFILES: "GetListMemberResponseCollection",
    limits.CREATE_LIST: "PostListCreateResponse",
    limits.GET_SEGMENT: "GetSegmentRetrieveResponseCompoundDocument",
    limits.GET_SEGMENT_COUNT: "GetSegmentRetrieveResponseCompoundDocument",
    limits.GET_SEGMENTS: "GetSegmentListResponseCollectionCompoundDocument",
    limits.GET_SEGMENT_PROFILES: "GetSegmentMemberResponseCollection",
    limits.GET_FLOWS: "GetFlowResponseCollectionCompoundDocument",
}
"""The SDK's model of each answer with a body."""

WITHOUT_BODY = {
    limits.CREATE_EVENT,
    limits.BULK_EVENTS,
    limits.REMOVE_MEMBERS,
    limits.ERASE_PROFILE,
}
NOT_IN_THE_SDK = {limits.GET_INSTALLS}
"""A beta operation."""

UNDECLARED = {"/data/relationships/conversation", "/data/*/relationships/conversation"}
"""Klaviyo sends these, recorded live, and its SDK does not know them."""


COMPARED = [
    case
    for case in (*READS, *WRITES)
    # The SDK itself makes no model of a job with few fields, because required ones may lack.
    if case.operation in MODELS and "fields[profile-bulk-import-job]" not in case.path
    if case.status < 300
]


@pytest.mark.parametrize("case", COMPARED, ids=str)
async def test_the_sdk_knows_all_that_an_answer_contains(case: Case) -> None:
    async with filled_account() as account:
        answer = (await account.ask(case)).json()
    model = getattr(openapi_client.models, MODELS[case.operation])
    assert set(unknown_to(model.from_dict(answer).to_dict(), answer)) <= UNDECLARED


async def test_the_sdk_knows_no_body_where_there_is_none() -> None:
    for case in WRITES:
        if case.operation in WITHOUT_BODY:
            async with filled_account() as account:
                assert (await account.ask(case)).content == b""


def test_every_operation_of_the_connector_is_compared_with_the_sdk() -> None:
    compared = {case.operation for case in COMPARED} | WITHOUT_BODY
    used = {endpoint.route for endpoint in limits.ENDPOINTS}
    assert used - compared == NOT_IN_THE_SDK


def unknown_to(model: Any, answer: Any, path: str = "") -> Iterator[str]:
    """The paths of values in the answer that the model dropped. Models drop nulls too."""
    if isinstance(answer, dict):
        for name, value in answer.items():
            if name in model:
                yield from unknown_to(model[name], value, f"{path}/{name}")
            elif value is not None:
                yield f"{path}/{name}"
    elif isinstance(answer, list):
        assert len(model) == len(answer)
        for inner, value in zip(model, answer, strict=True):
            yield from unknown_to(inner, value, f"{path}/*")
