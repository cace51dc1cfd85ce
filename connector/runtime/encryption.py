"""Encryption of what is stored secret.

Fernet: AES-128-CBC with HMAC-SHA256. The first key encrypts, every key decrypts, so a key is
replaced by putting the new one before the old one (`[security] encryption_key` as a list).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from connector.domain.errors import ConnectorError, Problem
from connector.ports.secrets import StoredSecret


class UnreadableSecret(ConnectorError):
    """A stored secret cannot be decrypted, or nothing can be encrypted: the key is missing or
    another one."""


class Cipher:
    """Encrypts and decrypts JSON values with the keys of `[security] encryption_key`."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._fernets = [Fernet(key.get_secret_value()) for key in keys]

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

    def is_current(self, sealed: str) -> bool:
        """Whether it is encrypted with the first key."""
        try:
            self._fernets[0].decrypt(sealed)
        except (InvalidToken, IndexError):
            return False
        return True
