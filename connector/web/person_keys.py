"""Opaque keys of people, so that no address or platform id is in a URL."""

from __future__ import annotations

from connector.runtime.encryption import Seal

_KIND = "person"
"""What else is sealed must not pass for a person."""


def seal_person(seal: Seal, connection: str, id: int) -> str:
    """The key of the person with this number in the store."""
    return seal.seal(f"{_KIND} {connection}/{id}")


def open_person(seal: Seal, key: str) -> tuple[str, int]:
    """(connection, number). Raises KeyError for a key that is too old or of another server."""
    kind, _, rest = (seal.open(key) or "").partition(" ")
    connection, _, id = rest.partition("/")
    if kind != _KIND:
        raise KeyError("not the key of a person")
    return connection, int(id)
