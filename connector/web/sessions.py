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
        """The token that each form of the browser with this id carries."""
        return self._seal.digest("csrf", id)

    def is_csrf_token(self, token: str, id: str) -> bool:
        return hmac.compare_digest(token.encode(), self.csrf_token(id).encode())
