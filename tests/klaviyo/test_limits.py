"""The table of Klaviyo's endpoints: one row each, with a name for people."""

from __future__ import annotations

import httpx
import pytest

from connector.domain.errors import RetryLater
from connector.klaviyo.limits import CREATE_EVENT, ENDPOINTS, GET_ACCOUNTS, LIMITS, endpoint_label

from .conftest import scripted


def test_every_endpoint_has_a_name_of_its_own() -> None:
    assert len(LIMITS) == len({endpoint.label for endpoint in ENDPOINTS}) == len(ENDPOINTS)
    assert all(endpoint.label.startswith("Klaviyo ") for endpoint in ENDPOINTS)


def test_an_endpoint_is_shown_by_its_name_and_that_of_a_platform_as_it_is() -> None:
    assert endpoint_label(CREATE_EVENT) == "Klaviyo events"
    assert endpoint_label("Yotpo API") == "Yotpo API"


async def test_a_read_that_is_throttled_without_retry_after_slows_its_endpoint() -> None:
    rig = scripted(lambda request: httpx.Response(429))
    with pytest.raises(RetryLater):
        await rig.api.get(GET_ACCOUNTS, "/api/accounts")
    grant = rig.limiter.reserve(GET_ACCOUNTS, 1)
    assert (grant.count, grant.wait) == (0, pytest.approx(1.0))
