"""Credentials as header makers: what proves us to a far end.

OAuth installs will live here too, on Authlib's transport-free core; nothing else imports authlib.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr


class HeaderKey:
    """A fixed key in a header: `Authorization: Klaviyo-API-Key pk_…`, `api-key: …`."""

    def __init__(self, header: str, key: SecretStr, *, prefix: str = "") -> None:
        self._header, self._key, self._prefix = header, key, prefix

    def __call__(self) -> Mapping[str, str]:
        return {self._header: self._prefix + self._key.get_secret_value()}

    def __repr__(self) -> str:
        return f"HeaderKey({self._header!r}, ***)"
