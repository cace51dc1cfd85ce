"""The table of Klaviyo's endpoints: one row each, with a name for people."""

from __future__ import annotations

from connector.klaviyo.limits import CREATE_EVENT, ENDPOINTS, LIMITS, endpoint_label


def test_every_endpoint_has_a_name_of_its_own() -> None:
    assert len(LIMITS) == len({endpoint.label for endpoint in ENDPOINTS}) == len(ENDPOINTS)
    assert all(endpoint.label.startswith("Klaviyo ") for endpoint in ENDPOINTS)


def test_an_endpoint_is_shown_by_its_name_and_that_of_a_platform_as_it_is() -> None:
    assert endpoint_label(CREATE_EVENT) == "Klaviyo events"
    assert endpoint_label("Yotpo API") == "Yotpo API"
