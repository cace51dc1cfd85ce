"""What the audit log says of a command: who, what, and about which connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connector.domain.lanes import Millis
from connector.ports import AuditEntry

_HARMLESS = (
    "id",
    "ids",
    "cause",
    "state",
    "all",
    "name",
    "klaviyo",
    "source",
    "dry_run",
    "events",
    "since",
)
"""Arguments that hold neither personal data nor a secret. Those that name a person do."""


def audit_entry(
    kind: str, args: Mapping[str, Any], result: Mapping[str, Any], *, by: str, now: Millis
) -> AuditEntry:
    """The subject is made of the arguments, and of the counts in the result."""
    shown = {key: args[key] for key in _HARMLESS if args.get(key)}
    shown |= {k: v for k, v in result.items() if type(v) is int and k != "since"}
    subject = ", ".join(f"{key}: {value}" for key, value in shown.items())
    return AuditEntry(now, by or args.get("by", ""), kind, args.get("connection", ""), subject)
