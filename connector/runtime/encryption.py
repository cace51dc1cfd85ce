"""Encryption of what is stored secret.

Fernet: AES-128-CBC with HMAC-SHA256. The first key encrypts, every key decrypts, so a key is
replaced by putting the new one before the old one (`[security] encryption_key` as a list).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from connector.domain.errors import ConnectorError, Problem
from connector.ports import Clock
from connector.ports.secrets import StoredSecret

_KEY_LENGTH = 32


class UnreadableSecret(ConnectorError):
    """A stored secret cannot be decrypted, or nothing can be encrypted: the key is missing or
    another one."""


class Cipher:
    """Encrypts and decrypts JSON values with the keys of `[security] encryption_key`."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._fernets = [Fernet(key.get_secret_value()) for key in keys]
        found = [key.get_secret_value() for key in keys[:1]]
        self._digest_key = _derive(urlsafe_b64decode(found[0]), b"digest") if found else b""

    def __bool__(self) -> bool:
        """Whether there is a key."""
        return bool(self._fernets)

    def seal(self, value: Any) -> str:
        """The ciphertext of a JSON value. Raises UnreadableSecret without a key."""
        if not self._fernets:
            raise UnreadableSecret(
                Problem.ENCRYPTION_KEY,
                "[security] encryption_key is empty, so no secret can be stored: set "
                "CONNECTOR_ENCRYPTION_KEY to a Fernet key",
            )
        return self._fernets[0].encrypt(orjson.dumps(value)).decode()

    def open(self, secret: StoredSecret | str) -> Any:
        """The JSON value of a ciphertext. Raises UnreadableSecret."""
        sealed = secret if isinstance(secret, str) else secret.sealed
        if self._fernets:
            try:
                return orjson.loads(MultiFernet(self._fernets).decrypt(sealed))
            except InvalidToken:
                pass
        found = "has another key" if self._fernets else "is empty"
        what = "" if isinstance(secret, str) else f" {secret.name} of {secret.owner}"
        raise UnreadableSecret(
            Problem.ENCRYPTION_KEY,
            f"the stored secret{what} cannot be decrypted: [security] encryption_key {found}; put "
            "the key with which it was stored back, as the second of a list if there is a new one",
        ) from None

    def digest(self, value: Any) -> str:
        """A digest of a JSON value that only whoever has the first key can make, in hex."""
        if not self._digest_key:
            return ""
        return hmac.new(self._digest_key, orjson.dumps(value), hashlib.sha256).hexdigest()

    def is_current(self, sealed: str) -> bool:
        """Whether it is encrypted with the first key."""
        try:
            self._fernets[0].decrypt(sealed)
        except (InvalidToken, IndexError):
            return False
        return True


class Seal:
    """Seals texts that leave the process and come back: session cookies, ids that must not be
    readable in a URL. They are valid for `lifetime` seconds.

    Its keys are derived from those of `[security] encryption_key`, so that nothing that it seals
    passes for a stored secret. Without keys a random one is used: what was sealed then ends with
    the process, and no other replica can open it.
    """

    def __init__(self, clock: Clock, keys: Sequence[SecretStr], *, lifetime: float) -> None:
        self._clock = clock
        self._lifetime = int(lifetime)
        derived = [_derive(urlsafe_b64decode(key.get_secret_value())) for key in keys]
        self._keys = derived or [secrets.token_bytes(_KEY_LENGTH)]
        self._fernet = MultiFernet([Fernet(urlsafe_b64encode(key)) for key in self._keys])

    def seal(self, text: str) -> str:
        return self._fernet.encrypt_at_time(text.encode(), self._seconds()).decode()

    def open(self, sealed: str) -> str | None:
        """The text; None where it was sealed by another server or too long ago."""
        try:
            return self._fernet.decrypt_at_time(
                sealed.encode(), self._lifetime, self._seconds()
            ).decode()
        except InvalidToken:
            return None

    def digest(self, purpose: str, text: str) -> str:
        """A digest of `text` that only this server can make, in hex."""
        message = f"{purpose}\0{text}".encode()
        return hmac.new(self._keys[0], message, hashlib.sha256).hexdigest()[:_KEY_LENGTH]

    def _seconds(self) -> int:
        return self._clock.now() // 1000


def _derive(key: bytes, purpose: bytes = b"seal") -> bytes:
    return HKDF(SHA256(), _KEY_LENGTH, salt=None, info=b"connector " + purpose).derive(key)
