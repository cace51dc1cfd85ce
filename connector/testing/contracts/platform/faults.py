"""The contract of a platform's client when the platform fails."""

from __future__ import annotations

from typing import Any

import pytest

from connector.domain.errors import AmbiguousError, Blocked, DeliveryError, Rejected, RetryLater
from connector.testing.contracts.platform.subject import PlatformSubject
from connector.testing.fakes.ports import calls, outcome, with_response


class FaultTests(PlatformSubject):
    @pytest.mark.parametrize(
        ("status", "kinds"),
        [
            (401, (Blocked,)),
            (429, (RetryLater,)),
            (500, (AmbiguousError,)),
            (502, (AmbiguousError,)),
            (503, (RetryLater,)),
            (400, (Rejected,)),
            (404, (Blocked, Rejected)),
        ],
    )
    async def test_a_status_maps_to_the_same_error_on_every_platform(
        self, status: int, kinds: tuple[type[DeliveryError], ...]
    ) -> None:
        double = self.double()
        headers = [(b"retry-after", b"7"), (b"content-type", b"application/json")]
        app = with_response(double.app, self.faulty, status, headers, b'{"message": "no"}')
        async with self._client(app) as client:
            for name, call in calls(client, double):
                answer, error = await outcome(call)
                if error is None:
                    # A read finds nothing; a write must not report that it was applied.
                    assert status == 404, f"{name}: {status} was taken for a success"
                    refused = name == "members" and {r.status for r in answer} == {"refused"}
                    assert refused or not answer, f"{name}: a 404 was taken for a success"
                    continue
                assert isinstance(error, kinds), f"{name}: {status} is {type(error).__name__}"
                self._assert_no_secrets(f"{error} {error!r}", double)
                if isinstance(error, RetryLater) and status == 429:
                    assert error.after >= 7, f"{name}: Retry-After is ignored"
                if isinstance(error, Blocked) and status == 401:
                    assert error.scope == "account", f"{name}: a 401 is about the key"

    @pytest.mark.parametrize(
        ("broken", "kind"),
        [
            (TimeoutError, AmbiguousError),
            (ConnectionResetError, AmbiguousError),
            (ConnectionRefusedError, RetryLater),
        ],
    )
    async def test_a_broken_connection_is_ambiguous_or_was_never_made(
        self, broken: type[Exception], kind: type[DeliveryError]
    ) -> None:
        double = self.double()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if not self.faulty(scope["path"]):
                return await double.app(scope, receive, send)
            raise broken

        async with self._client(app) as client:
            for name, call in calls(client, double):
                with pytest.raises(kind) as caught:
                    await call()
                assert caught.value, name
                self._assert_no_secrets(f"{caught.value} {caught.value!r}", double)

    async def test_a_response_that_is_not_json_is_never_trusted(self) -> None:
        double = self.double()
        app = with_response(double.app, self.faulty, 200, [], b"<html>")
        async with self._client(app) as client:
            for name, call in calls(client, double):
                if name == "members":
                    continue  # a status may be all that a platform answers
                with pytest.raises(DeliveryError):
                    await call()

    async def test_a_check_reports_the_fault_and_raises_nothing(self) -> None:
        double = self.double()
        async with self._client(double.app) as client:
            assert not [c for c in await client.check() if c.level == "fault"]
        app = with_response(double.app, self.faulty, 401, [], b"{}")
        async with self._client(app) as client:
            if not calls(client, double):
                return
            found = await client.check()
            assert any(c.level == "fault" and c.problem for c in found)
            self._assert_no_secrets(str(found))
