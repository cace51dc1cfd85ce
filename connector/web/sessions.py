"""Signed sessions and CSRF tokens. Nothing about a session is stored: its cookie holds it all."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from connector.config.models import Role
from connector.ports import Clock

_KEY_LENGTH = 32
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
    """Session cookies that are valid for `lifetime` seconds.

    `keys` are Fernet keys, the first of which signs. Without keys a random one is used: sessions
    then end with the process and are valid on this replica only.
    """

    def __init__(self, clock: Clock, keys: Sequence[str], *, lifetime: float) -> None:
        self._clock = clock
        self.lifetime = int(lifetime)
        derived = [_derive(urlsafe_b64decode(key)) for key in keys]
        self._keys = derived or [secrets.token_bytes(_KEY_LENGTH)]
        self._fernet = MultiFernet([Fernet(urlsafe_b64encode(key)) for key in self._keys])

    def create(self, role: Role, password: str) -> tuple[Session, str]:
        """A new session of whoever gave `password`, and its cookie."""
        session = Session(secrets.token_urlsafe(16), role, self.digest(password))
        data = orjson.dumps([session.id, session.role, session.password])
        return session, self.seal(_SESSION + data.decode())

    def read(self, cookie: str) -> Session | None:
        """The session of a cookie; None where it is forged, of another key, or too old."""
        text = self.unseal(cookie)
        if text is None or not text.startswith(_SESSION):
            return None
        return Session(*orjson.loads(text.removeprefix(_SESSION)))

    def digest(self, password: str) -> str:
        """What a session remembers of a password."""
        return self._mac(b"password", password)

    def csrf_token(self, id: str) -> str:
        """The token that each form of the browser with this id carries."""
        return self._mac(b"csrf", id)

    def is_csrf_token(self, token: str, id: str) -> bool:
        return hmac.compare_digest(token.encode(), self.csrf_token(id).encode())

    def seal(self, text: str) -> str:
        """`text`, so that only this server can read it: for ids that must not stand in a URL."""
        return self._fernet.encrypt_at_time(text.encode(), self._seconds()).decode()

    def unseal(self, sealed: str) -> str | None:
        """The text; None where it was sealed by another server or longer ago than a session
        lasts."""
        try:
            data = self._fernet.decrypt_at_time(sealed.encode(), self.lifetime, self._seconds())
        except InvalidToken:
            return None
        return data.decode()

    def _mac(self, purpose: bytes, text: str) -> str:
        message = purpose + b"\0" + text.encode()
        return hmac.new(self._keys[0], message, hashlib.sha256).hexdigest()[:_KEY_LENGTH]

    def _seconds(self) -> int:
        return self._clock.now() // 1000


def _derive(key: bytes) -> bytes:
    """A key for sessions alone: what is encrypted in the store has another."""
    return HKDF(SHA256(), _KEY_LENGTH, salt=None, info=b"connector session").derive(key)
