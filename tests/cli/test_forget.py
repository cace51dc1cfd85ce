"""`connector forget`: with and without a daemon, also at Klaviyo, and how it is undone."""

from __future__ import annotations

import hmac
import json
import re

from tests.waiting import until

from .conftest import Call, Folder

ADA = "ada@example.com"


def test_forget_asks_for_confirmation_and_then_erases_the_person(
    call: Call, folder: Folder
) -> None:
    folder.ingest(ADA, "bo@example.com")
    unconfirmed = call("forget", "acme", ADA, at=folder)
    assert unconfirmed.code == 1
    assert "Erase 1 person of acme for good?" in unconfirmed.err
    assert call("explain", "acme", ADA).code == 0
    erased = call("forget", "acme", ADA.upper(), "--yes")
    assert (erased.code, erased.out) == (0, "forgotten: 1, rows: 3\n")
    explained = call("explain", "acme", ADA)
    assert explained.code == 1
    assert re.match(r"forgotten on 20\d\d-\d\d-\d\dT[\d:]+Z; ", explained.err)
    assert "--lift" in explained.err
    assert call("explain", "acme", "bo@example.com").code == 0
    again = call("forget", "acme", ADA, "--yes")
    assert (again.code, again.out) == (0, "forgotten: 0, rows: 0\n")
    assert again.err.startswith("already forgotten on 20")
    assert call("forget", "acme", "unknown@example.com", "--lift").code == 1
    assert call("forget", "acme", ADA, "--lift").out == "lifted: acme\n"


def test_with_a_daemon_an_erased_person_stays_erased_until_the_tombstone_is_removed(
    call: Call, folder: Folder
) -> None:
    folder.start()

    headers, body = folder.platforms.traffic.make_event()
    email = json.loads(body)["email"]
    assert folder.request("POST", "/webhooks/acme", body, headers)[0] == 202
    id = f"jericommerce:{json.loads(body)['id']}"
    until("it is delivered", lambda: folder.platforms.klaviyo.recorded(id) == 1)
    erased = call("forget", "acme", email, "--klaviyo", "--yes", at=folder)
    assert erased.code == 0, erased.err
    assert "deletion jobs at klaviyo: 1" in erased.out
    assert folder.platforms.klaviyo.erasures[-1:] == [email]
    assert email not in folder.log

    def resend(id: str) -> dict[str, int]:
        resent = json.dumps(json.loads(body) | {"id": id}).encode()
        signature = hmac.digest(b"jeri_webhook_secret", resent, "sha256").hex()
        signed = headers | {"x-jericommerce-hmac-sha256": signature}
        status, answer = folder.request("POST", "/webhooks/acme", resent, signed)
        assert status == 202
        return dict(json.loads(answer))

    assert resend("after-erasure") == {"accepted": 0, "duplicates": 0}
    skipped = 'connector_records_skipped_total{connection="acme",reason="forgotten"} 1.0'
    assert skipped in folder.request("GET", "/metrics")[1]
    assert call("explain", "acme", email, at=folder).code == 1
    assert call("forget", "acme", email, "--lift", at=folder).code == 0
    assert resend("after-erasure") == {"accepted": 1, "duplicates": 0}


def test_an_erasure_rejected_by_klaviyo_erases_nothing_locally(call: Call, folder: Folder) -> None:
    folder.ingest(ADA)
    folder.platforms.klaviyo.faults.add("data-privacy-deletion-jobs", "status", status=403, count=1)
    result = call("forget", "acme", ADA, "--klaviyo", "--yes", at=folder)
    assert result.code == 1
    assert "nothing was erased here" in result.err
    assert call("explain", "acme", ADA).code == 0


def test_a_person_unknown_to_klaviyo_is_erased_here(call: Call, folder: Folder) -> None:
    """Klaviyo answers 404: the profile was deleted before, or never existed."""
    stranger = "stranger@example.com"
    folder.ingest(stranger)
    call("pause", "acme", at=folder)
    result = call("forget", "acme", stranger, "--klaviyo", "--yes", at=folder)
    assert result.code == 0, result.err
    assert "deletion jobs at klaviyo: 0" in result.out
    assert "unknown to klaviyo: 1" in result.out
    assert call("explain", "acme", stranger).code == 1
