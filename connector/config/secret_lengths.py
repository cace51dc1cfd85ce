"""Secrets that callers present and that are short enough to be guessed."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, SecretStr

from connector.config.models import Config

MIN_LENGTH = 16
"""`connector init` generates 32 characters. A platform may choose its own secret, so a shorter one
is a warning and no fault."""


def short_secrets(config: Config) -> list[str]:
    """The dotted keys of secrets with fewer than 16 characters."""
    return [
        key
        for key, secrets in _presented(config)
        if any(0 < len(secret.get_secret_value()) < MIN_LENGTH for secret in secrets)
    ]


def _presented(config: Config) -> Iterator[tuple[str, tuple[SecretStr, ...]]]:
    for name in ("password", "viewer_password", "api_tokens"):
        yield f"console.{name}", getattr(config.console, name)
    for connection in config.connections:
        prefix = f"connections.{connection.name}"
        if connection.actions:
            yield f"{prefix}.actions.secret", connection.actions.secret
        if isinstance(connection.settings, BaseModel):
            secret = getattr(connection.settings, "webhook_secret", ())
            yield (
                f"{prefix}.settings.webhook_secret",
                (secret,) if isinstance(secret, SecretStr) else secret,
            )
