"""`connector support-bundle`: a zip with what support needs and no secret.

It contains whatever is available: with or without a running daemon, and with a configuration that
is invalid. At the end every secret of the configuration is masked in all files, and so is every
text that looks like an address or a token.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import platform
import sqlite3
import sys
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr

from connector import __version__
from connector.config import Config, show
from connector.domain.errors import ConfigError
from connector.runtime.clock import SystemClock
from connector.runtime.log import redact
from connector.service import Commands
from connector.store import schema
from connector.store.admin import integrity
from connector.store.sql import file_of, open_store
from connector.tools.checks import check

Fetch = Callable[[str], Awaitable[tuple[int, str]]]
"""GET a path of the running daemon: (status, text); status 0 without a response."""

_REQUESTS = 500
_README = """\
Collected by `connector support-bundle`. Secrets, addresses and tokens are masked; review the files
before you send them.

versions.json   the connector, Python, the system, libraries, names of the environment variables set
config.toml     the configuration in effect; faults.txt instead if it is invalid
check.txt       `connector check --offline`
status.json     lanes, backlog, dead letters by cause, quota, attention items
requests.json   the last {requests} requests, with route templates
store.json      revision, file sizes, rows per table
health.txt      /livez, /readyz and /healthz of the running daemon
metrics.txt     /metrics of the running daemon

The connector writes its log to stderr and does not keep it. Add the log of your system, such as
`journalctl -u connector` or `docker logs`; secrets are masked when a line is written.
"""


async def bundle(read: Callable[[], Config], fetch: Callable[[Config], Fetch]) -> bytes:
    """The bytes of the zip. If `read` raises ConfigError, the bundle contains the faults."""
    files: dict[str, str] = {"README.txt": _README.format(requests=_REQUESTS)}
    secrets: list[str] = []
    files["versions.json"] = await _collect(_versions)
    try:
        config = read()
    except ConfigError as error:
        files["faults.txt"] = "\n".join(error.faults)
    else:
        # Very short secrets would mask unrelated text; they are masked in config.toml anyway.
        secrets = sorted((s for s in _secrets(config) if len(s) > 3), key=len, reverse=True)
        files |= await _config_files(config, fetch(config))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zip_file:
        for name, text in files.items():
            zip_file.writestr(name, _masked(text, secrets))
    return archive.getvalue()


async def _config_files(config: Config, fetch: Fetch) -> dict[str, str]:
    async def checked() -> str:
        found = await check(config, offline=True)
        return "\n".join(f"{c.level} {c.name} {c.problem or ''} {c.detail}" for c in found)

    async def health() -> str:
        return "\n".join(
            [f"{path}: {await fetch(path)}" for path in ("/livez", "/readyz", "/healthz")]
        )

    async def metrics() -> str:
        return (await fetch("/metrics"))[1]

    async def config_toml() -> str:
        return show(config)

    return {
        "config.toml": await _collect(config_toml),
        "check.txt": await _collect(checked),
        "health.txt": await _collect(health),
        "metrics.txt": await _collect(metrics),
        "store.json": await _collect(lambda: _store(config)),
        **await _store_files(config),
    }


async def _store_files(config: Config) -> dict[str, str]:
    """The files that need the open store. A store that does not exist is not created."""
    path = file_of(config.store.url)
    if path and not path.exists():
        return dict.fromkeys(("status.json", "requests.json"), f"there is no store at {path}")
    try:
        store = await open_store(config.store.url, migrate="manual", create=False)
    except Exception as error:
        return dict.fromkeys(("status.json", "requests.json"), _failed(error))

    async def status() -> str:
        return (await Commands(store, SystemClock()).status()).model_dump_json(indent=2)

    async def requests() -> str:
        found = await store.reports.recent_requests(_REQUESTS)
        return _json([{"connection": c, "destination": d, **asdict(r)} for c, d, r in found])

    try:
        return {"status.json": await _collect(status), "requests.json": await _collect(requests)}
    finally:
        await store.aclose()


async def _store(config: Config) -> str:
    url = config.store.url
    path = file_of(url)
    found: dict[str, Any] = {"engine": urlsplit(url).scheme, "needed": schema.HEAD}
    if path and not path.exists():
        return _json(found | {"file": "does not exist"})
    if path:
        beside = sorted(path.parent.glob(f"{path.name}*"))
        found["files"] = {file.name: file.stat().st_size for file in beside}
        usage = os.statvfs(path.parent)
        found["free_bytes"] = usage.f_bavail * usage.f_frsize
    found["revision"] = await asyncio.to_thread(schema.with_connection, url, schema.revision_of)
    found["rows"] = await asyncio.to_thread(integrity.counts, url)
    return _json(found)


async def _versions() -> str:
    requirements = metadata.requires("loyalty-connector") or []
    names = sorted({_name(line) for line in requirements if "extra ==" not in line})
    return _json(
        {
            "connector": __version__,
            "python": sys.version,
            "platform": platform.platform(),
            "processors": os.cpu_count(),
            "sqlite": sqlite3.sqlite_version,
            "libraries": {name: _version(name) for name in names},
            "variables": sorted(
                name for name in os.environ if name.startswith(("CONNECTOR_", "KLAVIYO_"))
            ),
        }
    )


def _name(requirement: str) -> str:
    """`sqlalchemy[asyncio]<2.2,>=2.1.9` → `sqlalchemy`."""
    end = next((i for i, c in enumerate(requirement) if not (c.isalnum() or c in "-_.")), None)
    return requirement[:end]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


async def _collect(work: Callable[[], Awaitable[str]]) -> str:
    """The text, or the error: one failure must not affect the other files."""
    try:
        return await work()
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> str:
    return f"not available: {type(error).__name__}: {error}"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str)


def _secrets(value: Any) -> Iterator[str]:
    """Every secret of the configuration, including the password in the store's URL."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        if isinstance(value, Config) and (password := urlsplit(value.store.url).password):
            yield from {password, unquote(password)}
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _secrets(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _secrets(item)


def _masked(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return redact(text)


def write(target: Path, archive: bytes) -> None:
    """Write the file, readable by its owner only. Raises ConfigError if it exists."""
    try:
        number = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise ConfigError([f"{target}: found an existing file, allowed a new file name"]) from None
    except OSError as error:
        raise ConfigError([f"{target}: cannot be written: {error.strerror}"]) from None
    with os.fdopen(number, "wb") as file:
        file.write(archive)
