"""Which hosts are this machine."""

from __future__ import annotations

import pytest

from connector.domain.hosts import is_loopback

HOSTS = [
    ("localhost", True),
    ("LOCALHOST", True),
    ("localhost.", True),
    ("foo.localhost", True),
    ("a.b.localhost.", True),
    ("127.0.0.1", True),
    ("127.255.0.9", True),
    ("::1", True),
    ("127.evil.example", False),
    ("localhost.evil.example", False),
    ("notlocalhost", False),
    (".localhost", False),
    ("0.0.0.0", False),
    ("", False),
]


@pytest.mark.parametrize(("host", "loopback"), HOSTS)
def test_only_this_machine_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
