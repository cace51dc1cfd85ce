"""Structured logs without secrets: one line when something fails, one when it recovers.

Guarantee 8: no secret, token or personal data. Every value that is logged passes `redact`, which
masks addresses, bearer tokens and keys; callers log route templates, never URLs. Lines for people
have control characters escaped. A warning or error with a `problem` gets the `remedy` of that code.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import orjson

from connector.domain.errors import Problem
from connector.domain.remedies import at_command_line
from connector.runtime.late_import import without
from connector.runtime.printable import one_line, printable

with without("rich"):
    import structlog

# Matches what is no address as well, so that a long text is read once and not from each character.
_ADDRESS = re.compile(r"[\w.!#$&'*+^`{|}~-]++((?:@|%40)[\w-]+\.[\w.-]+)?")
_PHONE = re.compile(r"(?<![\w.:])\+[1-9][0-9]{6,14}\b")
_TOKEN = re.compile(
    r"\b(pk_[A-Za-z0-9_]{4,}|(?:[Bb]earer|Basic|Klaviyo-API-Key)\s+[^\s\"']+"
    r"|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*)"
)
_ADVICE = {problem.value: problem.advice for problem in Problem}
_SECRET_KEYS = re.compile(
    r"secret|password|token|api[_-]?key|private_key|authorization|signature|hmac|cookie", re.I
)


def redact(text: str) -> str:
    """Mask e-mail addresses, phone numbers and tokens."""
    masked = _ADDRESS.sub(lambda m: "<address>" if m[1] else m[0], text)
    return _TOKEN.sub("***", _PHONE.sub("<phone>", masked))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {
            redact(str(k)): "***" if _SECRET_KEYS.search(str(k)) else _clean(v)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(v) for v in value]
    if value is None or isinstance(value, int | float):
        return value
    # The text of any other object is what would be written.
    return redact(repr(value))


def _add_remedy(_: Any, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A warning or error with a problem code says what to do about it."""
    advice = _ADVICE.get(str(event.get("problem")))
    if advice and level in ("warning", "error", "critical"):
        event.setdefault("remedy", at_command_line(advice, str(event.get("connection", ""))))
    return event


def _redact_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if not key.startswith("_"):
            event[key] = "***" if _SECRET_KEYS.search(key) else _clean(value)
    return event


def _printable_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """For lines that people read; JSON escapes by itself."""
    for key, value in event.items():
        if isinstance(value, str) and not key.startswith("_"):
            # A traceback has lines.
            event[key] = printable(value) if key == "exception" else one_line(value)
    return event


def _dumps(event: Any, **options: Any) -> str:
    try:
        return orjson.dumps(event, default=options.get("default", str)).decode()
    except TypeError:
        # orjson rejects lone surrogates and integers over 64 bits; logging must not raise.
        return json.dumps(event, default=str)


def configure(
    *, format: Literal["console", "json"] = "console", level: str = "info", stream: Any = None
) -> None:
    """Configure structlog and route the standard library's logging through it, to stderr."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _add_remedy,
        _redact_event,
    ]
    if format == "console":
        shared.append(_printable_event)
    renderer: Any = (
        structlog.processors.JSONRenderer(serializer=_dumps)
        if format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    # Not sys.stderr, which the command line wraps: a log line has its own colours.
    out = stream or sys.__stderr__ or sys.stderr
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines have the field `part=name`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(part=name)
    return logger
