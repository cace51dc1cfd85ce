"""The audit holds neither personal data nor a secret, also of what failed."""

from __future__ import annotations

from connector.domain.lanes import Millis
from connector.service.audit import audit_entry


def test_an_error_does_not_repeat_what_the_caller_gave() -> None:
    args = {
        "connection": "acme",
        "person": "customer-4711",
        "set": {"klaviyo.private_key": "pk_4242", "links": ["Gold club"]},
        "id": 7,
    }
    error = "acme: no customer-4711 (ada@example.com), no Gold club; pk_4242 is refused; no 7"
    entry = audit_entry("refresh", args, {"error": error}, done=False, by="ci", now=Millis(1))
    assert (entry.by, entry.what, entry.connection, entry.subject) == (
        "ci",
        "refresh",
        "acme",
        "id: 7",
    )
    assert entry.error == "acme: no … (<address>), no …; … is refused; no 7"


def test_what_was_done_has_no_error() -> None:
    entry = audit_entry("retry", {"ids": [1]}, {"retried": 1}, done=True, by="ci", now=Millis(1))
    assert (entry.error, entry.subject) == ("", "ids: [1], retried: 1")
