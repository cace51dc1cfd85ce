"""What the audit log says of a command: who, what, and about which connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from connector.domain.lanes import Millis
from connector.ports import AuditEntry
from connector.runtime.log import redact

_ERROR_MAX = 500
_NAMING = 3
"""Characters from which on a text of a caller may name a person."""

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
    kind: str,
    args: Mapping[str, Any],
    result: Mapping[str, Any],
    *,
    done: bool,
    by: str,
    now: Millis,
) -> AuditEntry:
    """The subject is made of the arguments, and of the counts in the result. Of a command that was
    not `done` the entry has the error."""
    shown = {key: args[key] for key in _HARMLESS if args.get(key)}
    shown |= {k: v for k, v in result.items() if type(v) is int and k != "since"}
    subject = ", ".join(f"{key}: {value}" for key, value in shown.items())
    return AuditEntry(
        now,
        by or args.get("by", ""),
        kind,
        args.get("connection", ""),
        subject,
        error="" if done else _error(args, result),
    )


def _error(args: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The error without what the caller gave: it may repeat an address, an id or a secret."""
    text = str(result.get("error") or "it failed")
    private = [value for key, value in args.items() if key not in (*_HARMLESS, "connection", "by")]
    for value in sorted(_texts(private), key=len, reverse=True):
        text = text.replace(value, "…")
    return redact(text)[:_ERROR_MAX]


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value that is long enough to name someone."""
    if isinstance(value, str):
        if len(value) >= _NAMING:
            yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value.values()])
    elif isinstance(value, Sequence):
        for each in value:
            yield from _texts(each)
