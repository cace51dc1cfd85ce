"""Digests that stand for an action's identity and person."""

from __future__ import annotations

from hashlib import blake2b


def digest(*parts: str) -> bytes:
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()


def person_key(connection: str, person: int) -> bytes:
    """The value of `person_key` for a person who has been seen."""
    return digest(connection, f"#{person}")


def unknown_person_key(connection: str, id: str) -> bytes:
    """The same for a person who is known by an id only, which no one in the store has."""
    return digest(connection, id)
