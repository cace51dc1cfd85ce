"""Guarantee 7: the connector never grants consent, never lifts a suppression, never unsubscribes
anybody. One table names every endpoint that may be called, and one place refuses all others; that
no body says more than it may is seen in tests/sync/memberships/test_interleavings.py and
tests/klaviyo/test_profile_sink.py."""

from __future__ import annotations

import re

import pytest

from connector.domain.errors import GuaranteeError
from connector.klaviyo.limits import LIMITS
from connector.sandbox import KlaviyoSandbox

from .conftest import Rig

_CONSENT = re.compile("subscri|suppress|consent|opt", re.I)
"""What Klaviyo's endpoints of consent are called: profile-subscription-bulk-create-jobs,
profile-subscription-bulk-delete-jobs, profile-suppression-bulk-create-jobs and -delete-jobs."""


@pytest.mark.parametrize("endpoint", LIMITS)
def test_no_endpoint_we_use_concerns_consent(endpoint: str) -> None:
    assert not _CONSENT.search(endpoint)


async def test_no_request_writes_to_an_unlisted_endpoint(rig: Rig, klaviyo: KlaviyoSandbox) -> None:
    route = "POST /api/profile-subscription-bulk-create-jobs"
    with pytest.raises(GuaranteeError, match="profile-subscription-bulk-create-jobs"):
        await rig.api.post(route, b"{}")
    assert klaviyo.state()["requests"] == {}
