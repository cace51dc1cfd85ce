"""Sessions and CSRF tokens. Nothing about a session is stored: its cookie holds it all."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass

import orjson

from connector.config.models import Role
from connector.runtime.encryption import Seal

_SESSION = "session "
"""What else is sealed must not pass for a session."""


@dataclass(frozen=True, slots=True)
class Session:
    """`id` is random. `password` is a digest of the password that was used, so that a session ends
    when that password is no longer configured."""

    id: str
    role: Role
    password: str


class Sessions:
    """Session cookies, valid as long as what `seal` seals."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    def create(self, role: Role, password: str) -> tuple[Session, str]:
        """A new session of whoever gave `password`, and its cookie."""
        session = Session(secrets.token_urlsafe(16), role, self.digest(password))
        data = orjson.dumps([session.id, session.role, session.password])
        return session, self._seal.seal(_SESSION + data.decode())

    def read(self, cookie: str) -> Session | None:
        """The session of a cookie; None where it is forged, of another key, or too old."""
        text = self._seal.open(cookie)
        if text is None or not text.startswith(_SESSION):
            return None
        return Session(*orjson.loads(text.removeprefix(_SESSION)))

    def digest(self, password: str) -> str:
        """What a session remembers of a password."""
        return self._seal.digest("password", password)

    def csrf_token(self, id: str) -> str:
        """The token that each form of the browser with this id carries. Its mask differs each time,
        so that the size of a compressed page reveals nothing of it (BREACH)."""
        wanted = self._csrf(id)
        mask = secrets.token_bytes(len(wanted))
        return mask.hex() + _xor(mask, wanted).hex()

    def is_csrf_token(self, token: str, id: str) -> bool:
        wanted = self._csrf(id)
        try:
            given = bytes.fromhex(token)
        except ValueError:
            return False
        mask, masked = given[: len(wanted)], given[len(wanted) :]
        return len(masked) == len(wanted) and hmac.compare_digest(_xor(mask, masked), wanted)

    def _csrf(self, id: str) -> bytes:
        return self._seal.digest("csrf", id).encode()


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
