"""`connector check`: checks that send nothing and change nothing."""

from __future__ import annotations

import asyncio
import shutil
import stat
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from connector.app.wiring import accounts
from connector.app.wiring.credentials import klaviyo_limiter, open_klaviyo, open_platform
from connector.app.wiring.faults import faults_beside
from connector.app.wiring.oauth import klaviyo_token
from connector.config import Config, Connection, Reward, Store, Tier
from connector.config.secret_lengths import MIN_LENGTH, short_secrets
from connector.config.shipped import shipped_mappings
from connector.domain.attention import Check
from connector.domain.errors import ConfigError, DeliveryError, Problem, StoreError
from connector.domain.hosts import is_loopback
from connector.domain.oauth import KLAVIYO_OAUTH, GrantInfo
from connector.domain.remedies import at_command_line
from connector.domain.wording import counted, low_disk
from connector.klaviyo import api as klaviyo
from connector.klaviyo.groups import KlaviyoGroups
from connector.mapping import Writer, find_conflicts, run_examples, warnings
from connector.mapping import load as load_mapping
from connector.mapping.examples import View, ViewFactory
from connector.net.http import Credential
from connector.net.rate_limit import RateLimiter
from connector.platforms import registry
from connector.ports import Client, PersonSnapshot, Platform
from connector.runtime.clock import SystemClock
from connector.service.grants import grant_problems
from connector.store.admin import filesystem, integrity
from connector.store.schema import UPGRADE
from connector.store.sql import file_of, open_store
from connector.sync.goals import goals
from connector.sync.memberships.remote_groups import (
    KlaviyoLists,
    KlaviyoSegments,
    PlatformAudiences,
    check_groups,
)

_RECHECK_INTERVAL = 5.0
_FAULTY_LENGTH = 8
"""Below MIN_LENGTH a secret is a warning, because a platform may choose its own."""


def mapping_checks(
    path: Path, source: str, settings: Any = None, changes: Mapping[str, Any] | None = None
) -> list[Check]:
    """Check a mapping file: faults, warnings and the examples in `examples/{source}/` beside it.
    `changes` lie above the file; the examples are about the file alone."""
    what = f"mapping {path.name}"
    try:
        mapping = load_mapping(path, changes).mapping
        platform = registry.load(source, settings)
    except ConfigError as error:
        name = f"package of {source}" if error.problem is Problem.PLUGIN_BROKEN else what
        return [Check(name, "fault", fault, error.problem) for fault in error.faults]
    found = [Check(what, "warning", line) for line in warnings(mapping)]
    examples, left_out = examples_of(path, source)
    if examples:
        faults = run_examples(
            examples[0].parent,
            platform.event_view,
            platform.person_view,
            example_views(platform),
            files=examples,
        )
        found += [Check(what, "fault", line, Problem.MAPPING_FAULTY) for line in faults]
    if left_out and not found:
        detail = (
            f"version {mapping.version}; it differs from the shipped file, so "
            f"{counted(left_out, 'shipped example was', 'shipped examples were')} not run"
        )
        return [Check(what, "ok", detail)]
    return found or [Check(what, "ok", f"version {mapping.version}")]


def mapping_files(folder: Path) -> list[tuple[Path, str]]:
    """(file, platform) of each mapping file in a folder that says which platform it is for."""
    found = []
    for path in sorted(folder.glob("*.toml")):
        try:
            source = tomllib.loads(path.read_text(encoding="utf-8")).get("source")
        except (OSError, ValueError):
            # mapping_checks reports the file; any platform will do.
            source = "http"
        if isinstance(source, str):
            found.append((path, source))
    return found


def examples_of(mapping: Path, source: str) -> tuple[list[Path], int]:
    """The examples to run for this mapping file, and how many were left out.

    The shipped examples say what the shipped mapping renders. A mapping that its user has changed
    is checked against examples that the user has written or changed.
    """
    files = sorted((mapping.parent / "examples" / source).glob("*.json"))
    shipped = shipped_mappings()
    if not (shipped / mapping.name).is_file():
        return files, 0
    run = [
        file
        for file in files
        if not _is_same(file, shipped / "examples" / source / file.name)
        or _is_same_mapping(mapping.parent / _mapping_of(file), shipped / _mapping_of(file))
    ]
    return run, len(files) - len(run)


def _mapping_of(example: Path) -> str:
    """The mapping file that an example is for; "" where it cannot be read."""
    try:
        return str(orjson.loads(example.read_bytes())["mapping"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _is_same_mapping(file: Path, original: Path) -> bool:
    """Whether both render alike: a file that extends a changed one does not."""
    try:
        return load_mapping(file).mapping.version == load_mapping(original).mapping.version
    except ConfigError:
        return False


def _is_same(file: Path, original: Path) -> bool:
    return original.is_file() and file.is_file() and original.read_bytes() == file.read_bytes()


def example_views(platform: Platform) -> ViewFactory:
    """The views for running a mapping example: those of the platform with the example's `settings`;
    the goals of its `tiers` and `rewards` are added to a person's."""

    def views(example: Mapping[str, Any]) -> tuple[View, View | None]:
        configured = platform
        if platform.for_settings is not None and "settings" in example:
            configured = platform.for_settings(
                platform.settings.model_validate(example["settings"])
            )
        tiers = [Tier.model_validate(tier) for tier in example.get("tiers", ())]
        rewards = [Reward.model_validate(reward) for reward in example.get("rewards", ())]
        add_goals, person = goals(tiers, rewards), configured.person_view
        if person is None:
            return configured.event_view, None
        return (
            configured.event_view,
            lambda *given: add_goals(PersonSnapshot(person(*given), frozenset())).view,
        )

    return views


async def check(config: Config, *, offline: bool = False, retry_for: float = 0.0) -> list[Check]:
    """Run all checks. While there is a fault, repeat them for `retry_for` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + retry_for
    credentials = None if offline else _CredentialChecks(config)
    while True:
        found = await _run_checks(config, credentials)
        left = deadline - loop.time()
        if left <= 0 or not any(line.level == "fault" for line in found):
            return found
        await asyncio.sleep(min(left, _RECHECK_INTERVAL))


async def _run_checks(config: Config, credentials: _CredentialChecks | None) -> list[Check]:
    found = await asyncio.to_thread(_store, config.store.url, config.store.migrate == "auto")
    found += await asyncio.to_thread(_durability, config.store.url)
    found += await asyncio.to_thread(_disk, config.store)
    found += _readable_by_others(config)
    if is_loopback(urlsplit(config.server.public_url).hostname or ""):
        unreachable = (
            f"Klaviyo and the platforms cannot reach {config.server.public_url}; set the public "
            "address of this server"
        )
        found.append(Check("server.public_url", "warning", unreachable))
    found += [
        Check(key, "warning", f"shorter than {MIN_LENGTH} characters, so it can be guessed")
        for key in short_secrets(config)
    ]
    for connection in config.connections:
        checks = mapping_checks(
            connection.mapping,
            connection.source,
            connection.settings,
            connection.mapping_changes,
        )
        found += _beside_platform(connection)
        if connection.enabled:
            checks += _webhook_secret(connection)
        if credentials and connection.enabled:
            checks += await credentials.check(connection)
        found += [_prefixed(connection, line) for line in checks]
    return [*found, *_conflicts(config)]


def _beside_platform(connection: Connection) -> list[Check]:
    """What `run` refuses about a connection because of its platform."""
    try:
        platform = registry.load(connection.source, connection.settings)
    except ConfigError:
        return []  # reported by mapping_checks
    faults = faults_beside(connection, platform)
    named = [fault.partition(": ") for fault in faults]
    return [Check(key, "fault", what, Problem.CONFIG_FAULTY) for key, _, what in named]


def _conflicts(config: Config) -> list[Check]:
    """Fields and metrics that two connections with the same Klaviyo key both write. Two keys of one
    account are detected when the daemon starts."""
    writers = []
    for connection in config.connections:
        if not connection.enabled or connection.mode == "shadow":
            continue
        try:
            mapping = load_mapping(connection.mapping, connection.mapping_changes).mapping
        except ConfigError:
            continue  # reported by mapping_checks
        modules = connection.modules
        account = accounts.account_aliases(connection)
        writers.append(
            Writer(connection.name, account, mapping, "events" in modules, "profiles" in modules)
        )
    return [
        Check("connections", "fault", line, Problem.MAPPING_FAULTY)
        for line in find_conflicts(writers)
    ]


def _store(url: str, auto_migrates: bool) -> list[Check]:
    """`auto_migrates`: the next run migrates an older schema by itself, so it is only a warning."""
    path = file_of(url)
    if path and not path.exists():
        return [Check("store", "ok", f"{path} will be created at the first run")]
    faults = integrity.check(url)
    return [
        Check("store", "warning", fault) if auto_migrates and UPGRADE in fault else _faulty(fault)
        for fault in faults
    ] or [Check("store", "ok")]


def _faulty(fault: str) -> Check:
    """`fault`: `S50: detail`."""
    code, _, detail = fault.partition(": ")
    return Check("store", "fault", detail, Problem.from_code(code))


def _disk(settings: Store) -> list[Check]:
    """Whether intake would be closed. The folder of a file may not exist yet."""
    path = file_of(settings.url)
    if path is None:
        return []
    folder = next(above for above in path.absolute().parents if above.exists())
    free = shutil.disk_usage(folder).free
    if free >= settings.min_free:
        return []
    detail = f"{low_disk(path, free, settings.min_free)}: webhooks would be answered 503"
    return [Check("store", "fault", detail, Problem.DISK_LOW)]


def _durability(url: str) -> list[Check]:
    """Whether what was committed survives a crash. The folder of a file may not exist yet."""
    path = file_of(url)
    if path is None:
        lost = "a crash of the database loses webhooks that were answered 202: turn it on"
        settings = integrity.undurable_settings(url)
        return [Check("store", "warning", f"{name} is off; {lost}") for name in settings]
    folder = next(above for above in path.absolute().parents if above.exists())
    fault = filesystem.unsuitable(folder, filesystem.read_mountinfo())
    return [Check("store", "warning", fault)] if fault else []


def _readable_by_others(config: Config) -> list[Check]:
    """Files with secrets or personal data that other users of this machine may read. The store's
    are restricted at each start, as far as they belong to this user."""
    files = [path for path in (file_of(config.store.url),) if path and path.exists()]
    files += [path for name in config.files[:1] if (path := name.with_name(".env")).exists()]
    return [
        Check(str(path), "warning", f"other users may read it; chmod 600 {path}")
        for path in files
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]


def _webhook_secret(connection: Connection) -> list[Check]:
    """Whether what the platform's callers must present is there, and is not easily guessed."""
    try:
        platform = registry.load(connection.source, connection.settings)
    except ConfigError:
        return []  # reported by mapping_checks
    configured = getattr(connection.settings, "webhook_secret", None)
    if platform.webhook is None or configured is None or "events" not in connection.modules:
        return []
    what, problem = "settings.webhook_secret", Problem.WEBHOOK_UNSIGNED
    secrets = [secret.get_secret_value().strip() for secret in configured]
    if not any(secrets):
        detail = "it is empty, so every webhook is refused with 401"
        return [Check(what, "fault", detail, problem)]
    shortest = min(len(secret) for secret in secrets if secret)
    if shortest < _FAULTY_LENGTH:
        detail = (
            f"it has {counted(shortest, 'character')} and can be guessed; "
            f"{MIN_LENGTH} or more are safe"
        )
        return [Check(what, "fault", detail, problem)]
    return []


def _prefixed(connection: Connection, check: Check) -> Check:
    return Check(f"{connection.name}: {check.name}", check.level, check.detail, check.problem)


class _CredentialChecks:
    """Checks credentials at Klaviyo and the platforms, within their quotas, without a store."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clock = SystemClock()
        self._limiters: dict[tuple[str, str], RateLimiter] = {}

    async def check(self, connection: Connection) -> list[Check]:
        return [*await self._klaviyo(connection), *await self._platform(connection)]

    async def _platform(self, connection: Connection) -> Sequence[Check]:
        try:
            registry.load(connection.source, connection.settings)
        except ConfigError:
            return []  # reported by mapping_checks
        try:
            with registry.isolate_platform(connection.source):
                async with open_platform(self._config, connection, self._clock) as client:
                    return await _at_platform(client, connection) if client else []
        except ConfigError as error:
            return [Check(connection.source, "fault", error.faults[0], error.problem)]

    async def _klaviyo(self, connection: Connection) -> Sequence[Check]:
        if connection.klaviyo.auth == "private-key":
            return await self._at_klaviyo(
                connection, klaviyo.private_key(connection.klaviyo.private_key)
            )
        return await self._with_oauth(connection)

    async def _with_oauth(self, connection: Connection) -> Sequence[Check]:
        """Checks with the stored token. An expired one is refreshed, as the daemon would."""
        name, path = connection.name, file_of(self._config.store.url)
        missing = Problem.KLAVIYO_NOT_CONNECTED
        not_connected = f"{missing.meaning}: connector connect {name}"
        if path and not path.exists():
            return [Check("Klaviyo access", "fault", not_connected, missing)]
        try:
            store = await open_store(self._config.store.url, migrate="manual")
        except StoreError:
            return []  # reported by _store
        token = klaviyo_token(self._config, connection, store, self._clock)
        try:
            row = await store.secrets.get(name, KLAVIYO_OAUTH)
            if row is None:
                return [Check("Klaviyo access", "fault", not_connected, missing)]
            problems = grant_problems(GrantInfo.load(row.info), name, self._clock.now())
            ended = Problem.KLAVIYO_ACCESS_ENDED
            found = [
                Check(
                    "Klaviyo access",
                    "fault" if problem is ended else "warning",
                    f"{text}; what to do: {at_command_line(todo)}",
                    problem,
                )
                for problem, text, todo in problems
            ]
            return [*found, *await self._at_klaviyo(connection, token)]
        finally:
            await token.aclose()
            await store.aclose()

    async def _at_klaviyo(self, connection: Connection, credential: Credential) -> Sequence[Check]:
        limiter = self._limiter(connection)
        async with open_klaviyo(self._config, connection, credential, limiter, self._clock) as api:
            found = list(await api.check())
            if all(line.level != "fault" for line in found):
                found += await _other_senders(api, connection)
                found += await _groups(api, connection)
            return found

    def _limiter(self, connection: Connection) -> RateLimiter:
        """One per key, so that repeated checks share the quota."""
        key = (connection.klaviyo.base_url, accounts.credential(connection))
        if key not in self._limiters:
            self._limiters[key] = klaviyo_limiter(connection, self._clock)
        return self._limiters[key]


async def _at_platform(client: Client, connection: Connection) -> list[Check]:
    """Its credentials, and the configured audiences."""
    found = list(await client.check())
    if client.audiences and "audiences" in connection.modules:
        wanted = [entry.audience for entry in connection.audiences]
        found += await check_groups("audience", wanted, PlatformAudiences(client.audiences))
    return found


_WEB_TRACKING = {"Active on Site", "Viewed Product"}
"""Metrics of Klaviyo's script for web pages. They have the integration of private keys."""


async def _groups(api: klaviyo.KlaviyoApi, connection: Connection) -> list[Check]:
    """The configured lists and segments."""
    groups = KlaviyoGroups(api)
    lists = connection.audiences if "audiences" in connection.modules else ()
    segments = connection.segments if "segments" in connection.modules else ()
    creatable = frozenset(entry.list for entry in lists if entry.create_list)
    return [
        *await check_groups(
            "list",
            [e.list for e in lists],
            KlaviyoLists(groups),
            created_on_demand=creatable,
        ),
        *await check_groups("segment", [e.segment for e in segments], KlaviyoSegments(groups)),
    ]


async def _other_senders(api: klaviyo.KlaviyoApi, connection: Connection) -> list[Check]:
    """Other integrations of the account that send a metric of the same name: flows and reports then
    have two metrics of one name, and people may receive a message twice."""
    what = "Klaviyo metrics"
    try:
        mapping = load_mapping(connection.mapping, connection.mapping_changes).mapping
        found = await api.metric_names()
    except ConfigError:
        return []  # reported by mapping_checks
    except DeliveryError as error:
        cause = error.detail
        if error.problem is Problem.KLAVIYO_SCOPE:
            cause = "the scope metrics:read is missing"
        detail = f"{cause}: it is unknown whether other integrations send metrics of these names"
        return [Check(what, "warning", detail, error.problem)]
    # Klaviyo names the integration of a private key API. An app's name is not in its API.
    own = "API" if connection.klaviyo.auth == "private-key" else None
    others: dict[str, list[str]] = {}
    for name, integration in found:
        foreign = integration != own if own else integration == "API"
        if name in _WEB_TRACKING and integration == "API":
            foreign, integration = True, "Klaviyo's web tracking"
        if name in mapping.metrics and foreign:
            others.setdefault(integration or "an integration without a name", []).append(name)
    return [
        Check(what, "warning", f"{integration} also sends {', '.join(sorted(names))}")
        for integration, names in sorted(others.items())
    ]
