"""Secrets among the settings made at run time: encrypted before they are queued and stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from connector.config import Config, is_secret_key, is_settable, parse_key
from connector.runtime.encryption import Cipher

SEALED = "sealed"
"""A value `{"sealed": …}` is encrypted with the encryption key, for secrets on their way."""


def cipher_of(config: Config) -> Cipher:
    return Cipher(config.security.encryption_key)


def settings_model(
    config: Config, connection: str, source: str | None = None
) -> type[BaseModel] | None:
    """The model of the platform's settings; `source` is that of a connection that is new."""
    try:
        settings = config.connection(connection).settings
    except KeyError:
        return config.settings_model(source) if isinstance(source, str) else None
    return type(settings) if isinstance(settings, BaseModel) else None


def seal_secrets(
    config: Config, connection: str, changes: Mapping[str, Any], source: str | None = None
) -> dict[str, Any]:
    """The changes with their secrets encrypted, for the queue of commands. A digest is kept beside
    each, so that a repeated request is recognised. A key that is faulty is left to the service.
    Raises UnreadableSecret without an encryption key."""
    cipher, model = cipher_of(config), settings_model(config, connection, source)
    sealed = dict(changes)
    for text, value in changes.items():
        try:
            key = parse_key(text)
        except ValueError:
            continue
        if is_settable(key) and is_secret_key(key, model):
            sealed[text] = {SEALED: cipher.seal(value), "digest": cipher.digest(value)}
    return sealed
