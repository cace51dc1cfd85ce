"""Checks across keys, after every key is valid by itself."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Container, Iterator
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from connector.config.connections import Connection, Join
from connector.config.faults import Faults, Loc, set_variable, without_password
from connector.config.models import Config
from connector.config.values import Section, field_option
from connector.domain.hosts import is_loopback

_LAST_PORT, _LONGEST_LABEL = 65_535, 63
_DATABASE = re.compile(
    r"(?:[^:/]*(?::[^@]*)?@)?(?:\[[^/?]+\]|(?P<host>[^/:?]+))?(?::(?P<port>[^/?]*))?(?:[/?]|$)"
)
"""What follows the scheme, as SQLAlchemy reads it: a password may have any character but @."""
_STORE_SCHEMES = ("sqlite", "postgresql")


def check(config: Config, faults: Faults) -> None:
    """Add every fault between keys to `faults`."""
    _server(config, faults)
    _store(config, faults)
    _encryption(config, faults)
    _api_tokens(config, faults)
    _retries(config, faults)
    _names(config, faults)
    _lists(config, faults)
    for index, connection in enumerate(config.connections):
        loc: Loc = ("connections", index)
        _credentials(config, connection, loc, faults)
        _actions(connection, loc, faults)
        _joins(connection, loc, faults)
    _tls(config, faults)


def _host(url: str) -> str | None:
    """The host of a URL; None if it has none that a name server could know, or a port that does not
    exist."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # read when it is asked for
    except ValueError:
        return None
    return parts.hostname if _may_exist(parts.hostname or "") else None


def _server(config: Config, faults: Faults) -> None:
    server = config.server
    host = _host(server.public_url)
    if host is None:
        faults.add(
            ("server", "public_url"),
            f"found a URL that no one can call, allowed a host and a port up to {_LAST_PORT}",
        )
    elif not is_loopback(host) and not config.console.password and not server.admin_port:
        faults.add(
            ("server", "public_url"),
            f"found the public host {host} without a console password, allowed with "
            "[console] password (CONNECTOR_CONSOLE_PASSWORD) or [server] admin_port",
        )
    if config.delivery.bulk_unset:
        # Not verified at Klaviyo (docs/unverified.md).
        faults.add(("delivery", "bulk_unset"), "found true, allowed false in this version")
    if server.admin_port and server.admin_port == server.port:
        faults.add(
            ("server", "admin_port"),
            f"found {server.admin_port}, which is also [server] port, allowed another port or 0",
        )


def _store(config: Config, faults: Faults) -> None:
    scheme, _, rest = config.store.url.partition("://")
    if scheme not in _STORE_SCHEMES or not rest.strip("/"):
        # Without a scheme the text may be anything, even a password.
        found = f'the scheme "{scheme}"' if rest and scheme.isalnum() else "text that is not a URL"
        faults.add(
            ("store", "url"),
            f"found {found}, allowed sqlite:///path or postgresql://user:password@host/database",
        )
    for key in ("url", "listen_url"):
        if not _is_address(getattr(config.store, key)):
            faults.add(
                ("store", key),
                "found a URL that no one can call, allowed "
                f"postgresql://user:password@host/database and a port up to {_LAST_PORT}",
            )


def _is_address(database: str) -> bool:
    """Whether the host and the port of this database may exist; of a file they may."""
    scheme, _, rest = database.partition("://")
    if scheme != "postgresql":
        return True
    found = _DATABASE.match(rest)
    if found is None or not _may_exist(found["host"] or ""):
        return False
    port = found["port"]
    return port is None or (port.isdecimal() and 0 < int(port) <= _LAST_PORT)


def _may_exist(host: str) -> bool:
    """Whether each of its labels has 1 to 63 characters (RFC 1035), or there is none."""
    labels = host.removesuffix(".").split(".")
    return not host or all(0 < len(label) <= _LONGEST_LABEL for label in labels)


def _encryption(config: Config, faults: Faults) -> None:
    for key in config.security.encryption_key:
        try:
            decoded = base64.b64decode(key.get_secret_value(), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            decoded = b""
        if len(decoded) != 32:
            faults.add(
                ("security", "encryption_key"),
                "found text that is not a Fernet key, allowed 32 bytes in URL-safe base64 "
                "(44 characters), or a list of them",
            )


def _api_tokens(config: Config, faults: Faults) -> None:
    try:
        names = [token.name for token in config.console.tokens]
    except ValueError:
        faults.add(
            ("console", "api_tokens"),
            'found a token of another form, allowed "name:role:token" with the role viewer or '
            "operator",
        )
        return
    for name in {name for name in names if names.count(name) > 1}:
        faults.add(
            ("console", "api_tokens"), f'found two tokens named "{name}", allowed unique names'
        )


def _retries(config: Config, faults: Faults) -> None:
    if config.delivery.retry_base > config.delivery.retry_max:
        faults.add(
            ("delivery", "retry_base"), "found more than retry_max, allowed at most retry_max"
        )


def _names(config: Config, faults: Faults) -> None:
    seen: dict[str, int] = {}
    for index, connection in enumerate(config.connections):
        first = seen.setdefault(connection.name, index)
        if first != index:
            faults.add(
                ("connections", index, "name"),
                f'found "{connection.name}", also the name of connections.{first}, allowed a '
                "unique name",
            )


def _lists(config: Config, faults: Faults) -> None:
    """Several audiences of one connection may fill a list if their list settings are equal."""
    seen: dict[str, tuple[int, int]] = {}
    for index, connection in enumerate(config.connections):
        for number, audience in enumerate(connection.audiences):
            first = seen.setdefault(audience.list, (index, number))
            owner = config.connections[first[0]]
            known = f"connections.{owner.name}.audiences.{first[1]}"
            loc: Loc = ("connections", index, "audiences", number)
            if first[0] != index:
                faults.add(
                    (*loc, "list"),
                    f'found "{audience.list}", the list of {known}, allowed a list that no other '
                    "connection fills (for two accounts with lists of the same name, use the ids)",
                )
                continue
            earlier = connection.audiences[:number]
            if (audience.audience, audience.list) in [(e.audience, e.list) for e in earlier]:
                faults.add(
                    (*loc, "audience"),
                    f'found "{audience.audience}" for "{audience.list}" again, allowed once',
                )
            for key in ("foreign_members", "on_manual_removal"):
                found, other = getattr(audience, key), getattr(owner.audiences[first[1]], key)
                if found != other:
                    faults.add(
                        (*loc, key),
                        f'found "{found}", allowed "{other}" as in {known}, which fills the same '
                        "list",
                    )


def _how_to_set(faults: Faults, loc: Loc, suggestion: str) -> str:
    """How to fill an empty secret: through the variable that the file names, if any."""
    if name := faults.variable_at(loc):
        return set_variable(name)
    return f'write "${{{suggestion}}}" here and {set_variable(suggestion)}'


def _prefix(connection: Connection) -> str:
    return connection.name.upper().replace("-", "_")


def _credentials(config: Config, connection: Connection, loc: Loc, faults: Faults) -> None:
    if not connection.enabled:
        return
    if connection.klaviyo.auth == "oauth":
        for name in ("client_id", "client_secret"):
            value = getattr(config.klaviyo_app, name)
            if not (value.get_secret_value() if isinstance(value, SecretStr) else value):
                key: Loc = ("klaviyo_app", name)
                how = _how_to_set(faults, key, f"KLAVIYO_{name.upper()}")
                faults.add(key, f'found "", allowed the app\'s {name} for OAuth: {how}')
        if not config.security.encryption_key:
            key = ("security", "encryption_key")
            how = _how_to_set(faults, key, "CONNECTOR_ENCRYPTION_KEY")
            faults.add(
                key,
                "found no key, allowed a Fernet key, which OAuth needs to store its tokens (make "
                f"one with `openssl rand -base64 32 | tr +/ -_`): {how}",
            )
    elif not connection.klaviyo.private_key.get_secret_value():
        key = (*loc, "klaviyo", "private_key")
        how = _how_to_set(faults, key, "KLAVIYO_PRIVATE_KEY")
        faults.add(key, f'found "", allowed a private key: {how}')
    if not isinstance(connection.settings, BaseModel):
        return
    for name, field in type(connection.settings).model_fields.items():
        value = getattr(connection.settings, name)
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        if field_option(field, "needed") and not plain:
            key = (*loc, "settings", name)
            how = _how_to_set(faults, key, f"{_prefix(connection)}_{name.upper()}")
            faults.add(key, f'found "", allowed a value that is not empty: {how}')


def _actions(connection: Connection, loc: Loc, faults: Faults) -> None:
    if connection.actions is not None and not connection.actions.secret:
        key = (*loc, "actions", "secret")
        how = _how_to_set(faults, key, f"{_prefix(connection)}_FLOW_SECRET")
        faults.add(key, f"found no secret, allowed one or a list of them: {how}")


def _joins(connection: Connection, loc: Loc, faults: Faults) -> None:
    for number, segment in enumerate(connection.segments):
        for place, join in enumerate(segment.on_join):
            for name in _unfilled(join):
                faults.add(
                    (*loc, "segments", number, "on_join", place, name),
                    f'found nothing, allowed a value that is not empty for action "{join.action}"',
                )


def _unfilled(join: Join) -> list[str]:
    if join.action == "push":
        return [] if join.message else ["message"]
    return [] if join.amount else ["amount"]


def _addresses(config: Config) -> Iterator[tuple[Loc, str]]:
    """Every URL that is called or published, with its key."""
    for number, notify in enumerate(config.notify):
        yield ("notify", number, "url"), notify.url.get_secret_value()
    for index, connection in enumerate(config.connections):
        tables: tuple[tuple[str, Section | Any], ...] = (
            ("klaviyo", connection.klaviyo),
            ("settings", connection.settings),
        )
        for name, table in tables:
            values = dict(table) if isinstance(table, BaseModel | dict) else {}
            for key, value in values.items():
                if (key == "url" or key.endswith("_url")) and isinstance(value, str):
                    yield ("connections", index, name, key), value


def _tls(config: Config, faults: Faults) -> None:
    allowed = {host.lower() for host in config.security.allow_http}
    seen: set[tuple[Loc, str]] = set()
    for loc, url in _addresses(config):
        fault = _url_fault(url, allowed) if url else None
        # A default that is derived from a faulty base_url is fixed with it.
        if fault is None or (faults.written_at(loc) is None and (loc[:-1], fault) in seen):
            continue
        seen.add((loc[:-1], fault))
        faults.add(loc, fault)


def _url_fault(url: str, allowed: Container[str]) -> str | None:
    host = _host(url)
    if host is None or not url.lower().startswith(("http://", "https://")):
        return (
            f"found text that is not a URL, allowed https://, a host and a port up to {_LAST_PORT}"
        )
    if url.lower().startswith("https://") or is_loopback(host) or host in allowed:
        return None
    return (
        f"found http:// to {without_password(host)}, allowed https://, or the host in "
        "[security] allow_http"
    )
