"""Setting a connection up: platforms to choose from, its settings as a form, whether its
credentials are accepted, the address of its webhook, and what can be linked."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

from connector.config import Config, Connection, Override, parse_key, with_overrides
from connector.config.overrides import UNSET_HINT
from connector.domain.attention import Check
from connector.domain.errors import ConfigError, ConnectorError
from connector.domain.hosts import is_loopback
from connector.domain.oauth import KLAVIYO_OAUTH, GrantInfo
from connector.domain.remedies import in_console
from connector.mapping import load as load_mapping
from connector.ports import AuditEntry, Clock, Platform, Store
from connector.service.connection_setup.form import Entered, Group, entered, groups_of
from connector.service.connection_setup.remote import (
    LinkPreview,
    RemoteNames,
    preview_audience,
    preview_segment,
)
from connector.service.grants import grant_problems
from connector.service.mapping_preview import PersonPreview, preview_person
from connector.service.runtime import ConnectionRuntime
from connector.service.setting_secrets import seal_secrets

Side = Literal["klaviyo", "platform"]
CheckSide = Callable[[Config, Connection, Side], Awaitable[Sequence[Check]]]
_WEBHOOK_SECRET = "settings.webhook_secret"
_KNOWN_WITHIN = 5.0
"""Seconds: as long as a page waits for a command."""


@dataclass(frozen=True, slots=True)
class WebhookAddress:
    """What is entered at the platform. `secret` is the part that must stay secret: the end of the
    address, or what the platform signs with; empty where there is none yet. `note` says where,
    `reachable` whether other machines can call it."""

    url: str
    secret: str = field(repr=False)
    in_address: bool
    note: str
    reachable: bool = True

    @property
    def shown(self) -> str:
        """The address without its secret."""
        return f"{self.url}/…" if self.in_address else self.url

    @property
    def whole(self) -> str:
        return f"{self.url}/{self.secret}" if self.in_address else self.url


@dataclass(frozen=True, slots=True)
class KlaviyoAccess:
    """How Klaviyo is reached. `account` and `problems` are those of an OAuth connection; a problem
    says what to do in the console (connector.domain.remedies)."""

    auth: str
    connected: bool = False
    account: str = ""
    problems: Sequence[str] = ()
    app: bool = False


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What both sides answered when credentials were tested, at `at` in ms since 1970."""

    at: int
    checks: Sequence[Check]

    @property
    def accepted(self) -> bool:
        return all(check.level != "fault" for check in self.checks)

    @property
    def refused(self) -> bool:
        """Whether a side answered that it does not accept them, and not that it is away."""
        problems = [check.problem for check in self.checks if check.level == "fault"]
        return any(problem and not problem.waits_for_remote for problem in problems)


class ConnectionSetup:
    """`load_platform` finds the platform of a source and its settings, `sources` are those that are
    installed. `check_side` asks one side of a connection that need not run whether it accepts the
    credentials. `on_read`: see RemoteNames."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        config: Callable[[], Config],
        runtimes: Mapping[str, ConnectionRuntime],
        load_platform: Callable[[str, Any], Platform],
        sources: Callable[[], Sequence[str]],
        check_side: CheckSide,
        on_read: Callable[[], None],
    ) -> None:
        self.names = RemoteNames(runtimes, clock, on_read)
        self._store = store
        self._clock = clock
        self._config = config
        self._runtimes = runtimes
        self._load_platform = load_platform
        self._sources = sources
        self._check_side = check_side
        self._results: dict[str, tuple[object, CheckResult]] = {}

    # ── platforms and forms ──────────────────────────────────────────────────────────────────────

    @property
    def can_store_secrets(self) -> bool:
        return bool(self._config().security.encryption_key)

    def platforms(self) -> list[Platform]:
        """The installed platforms that work, by title; those that settings describe come last."""
        found = []
        for source in self._sources():
            try:
                found.append(self._load_platform(source, None))
            except ConfigError:
                continue
        return sorted(found, key=lambda p: (p.for_settings is not None, p.title))

    def platform(self, source: str, settings: Any = None) -> Platform:
        """Raises ConfigError."""
        return self._load_platform(source, settings)

    def platform_of(self, connection: Connection) -> Platform:
        """Raises ConfigError."""
        return self._load_platform(connection.source, connection.settings)

    def groups(self, name: str, platform: Platform) -> list[Group]:
        """The settings of a connection, which may be new."""
        main = () if self._makes_webhook_secret(platform, {}) else (_WEBHOOK_SECRET,)
        return groups_of(self._config(), name, platform.title, platform.settings, main=main)

    def unfinished(self) -> list[Connection]:
        """Connections that were made at run time and are not active."""
        config = self._config()
        return [c for c in config.connections if not c.enabled and self.is_ours(c.name)]

    def free_name(self, source: str) -> str:
        """A name for a new connection of this platform that no other one has."""
        base = re.sub(r"[^a-z0-9]+", "-", source.rpartition(":")[2].lower()).strip("-")
        taken = {c.name for c in self._config().connections}
        names = (base, *(f"{base}-{number}" for number in range(2, len(taken) + 2)))
        return next(name for name in names if name not in taken)

    def is_ours(self, name: str) -> bool:
        """Whether the connection was made at run time."""
        return self._config().origin(f"connections.{name}.source") == "run time"

    def entered(self, groups: Sequence[Group], given: Mapping[str, str]) -> Entered:
        return entered([setting for group in groups for setting in group.all], given)

    def with_generated(self, platform: Platform, changes: dict[str, Any]) -> dict[str, Any]:
        """The settings of a new connection with the secrets that are ours to choose."""
        made = dict(changes)
        if self._makes_webhook_secret(platform, made):
            made.setdefault(_WEBHOOK_SECRET, secrets.token_hex(16))
        if platform.offers & {"increase", "decrease", "adjust", "push"}:
            made.setdefault("actions.secret", secrets.token_urlsafe(24))
        return made

    @staticmethod
    def _makes_webhook_secret(platform: Platform, changes: Mapping[str, Any]) -> bool:
        """Whether the secret is ours to choose: it is a part of the address that we give out."""
        if platform.webhook is None or "webhook_secret" not in platform.settings.model_fields:
            return False
        given = {key.removeprefix("settings."): value for key, value in changes.items()}
        return platform.secret_in_address(platform.settings.model_construct(**given))

    def sealed(
        self, name: str, changes: Mapping[str, Any], source: str | None = None
    ) -> dict[str, Any]:
        """See seal_secrets."""
        return seal_secrets(self._config(), name, changes, source)

    # ── credentials ──────────────────────────────────────────────────────────────────────────────

    async def until_known(self, name: str) -> bool:
        """Wait for a connection that was stored just now: a busy process, or another replica, may
        not have it yet. Whether it is there."""
        give_up = self._clock.monotonic() + _KNOWN_WITHIN
        while name not in self._runtimes and self._clock.monotonic() < give_up:
            await self._clock.sleep(0.1)
        return name in self._runtimes

    async def check(self, name: str) -> CheckResult:
        """Ask both sides whether they accept the stored credentials. Raises KeyError."""
        runtime = self._runtimes[name]
        result = await self._ask(runtime.title, runtime.checks)
        self._results[name] = (runtime, result)
        return result

    async def check_entered(
        self, connection: Connection, groups: Sequence[Group], entered: Entered, *, by: str
    ) -> CheckResult | None:
        """Ask the sides whose credentials are `entered`, before they are stored, whether they
        accept them; None where there are none. The audit log says where they were sent: stored
        secrets go along to an address that is entered. Raises ConfigError, as storing them would,
        and StoreError."""
        if not (sides := _sides(groups, entered)):
            return None
        config, name = self._config(), connection.name
        changed = {(name, key) for key in (*entered.set, *entered.unset)}
        kept = [o for o in config.overrides if (o.connection, o.dotted) not in changed]
        new = [Override(name, parse_key(key), value) for key, value in entered.set.items()]
        try:
            wanted = with_overrides(config, [*kept, *new])
        except ConfigError as error:
            raise ConfigError([line.partition(UNSET_HINT)[0] for line in error.faults]) from None
        found = wanted.connection(name)
        asked = [s for s in sides if s == "platform" or found.klaviyo.auth == "private-key"]
        title = self.platform_of(connection).title
        secret = {x.field.key for group in groups for x in group.all if x.field.secret}
        after = {key: "***" if key in secret else value for key, value in entered.set.items()}
        after |= dict.fromkeys(entered.unset)
        entry = AuditEntry(self._clock.now(), by, "credentials_tested", name, after=after)
        await self._store.audit.record(entry)
        return await self._ask(title, [partial(self._check_side, wanted, found, s) for s in asked])

    async def _ask(
        self, title: str, checks: Sequence[Callable[[], Awaitable[Sequence[Check]]]]
    ) -> CheckResult:
        found: list[Check] = []
        for check in checks:
            try:
                found += await check()
            except ConnectorError as error:
                found.append(Check(title, "fault", error.detail, error.problem))
            except Exception as error:  # a platform's package
                found.append(Check(title, "fault", f"{type(error).__name__}, see the log"))
        return CheckResult(self._clock.now(), found)

    def last_check(self, name: str) -> CheckResult | None:
        """The result for the settings in effect; None where this process did not test them."""
        runtime, result = self._results.get(name, (None, None))
        return result if runtime is not None and runtime is self._runtimes.get(name) else None

    async def klaviyo(self, connection: Connection) -> KlaviyoAccess:
        app = bool(self._config().klaviyo_app.client_id)
        if connection.klaviyo.auth != "oauth":
            return KlaviyoAccess("private-key", app=app)
        row = await self._store.secrets.get(connection.name, KLAVIYO_OAUTH)
        if row is None:
            return KlaviyoAccess("oauth", app=app)
        info = GrantInfo.load(row.info)
        problems = [
            f"{text}: {in_console(todo, connection.name)}"
            for _, text, todo in grant_problems(info, connection.name, self._clock.now())
        ]
        account = f"{info.account} {info.account_name}".strip()
        return KlaviyoAccess("oauth", info.ended_at is None, account, problems, app)

    # ── webhook ──────────────────────────────────────────────────────────────────────────────────

    def webhook(self, connection: Connection) -> WebhookAddress | None:
        """What is entered at the platform; None where it has no webhooks. Raises ConfigError."""
        platform = self.platform_of(connection)
        if platform.webhook is None:
            return None
        configured = getattr(connection.settings, "webhook_secret", ())
        secret = configured[0].get_secret_value() if configured else ""
        public = self._config().server.public_url.rstrip("/")
        in_address = bool(secret) and platform.secret_in_address(connection.settings)
        url = f"{public}/webhooks/{connection.name}"
        reachable = not is_loopback(urlsplit(public).hostname or "")
        return WebhookAddress(url, secret, in_address, platform.webhook_note, reachable)

    async def note_shown(self, name: str, what: str, *, by: str) -> None:
        """A person has a secret shown to them: write it to the audit log. Raises StoreError."""
        entry = AuditEntry(self._clock.now(), by, "secret_shown", name, what)
        await self._store.audit.record(entry)

    # ── links and mapping ────────────────────────────────────────────────────────────────────────

    async def preview_audience(self, name: str, audience: str, list_: str) -> LinkPreview:
        directory = self._runtimes[name].directory if name in self._runtimes else None
        if directory is None:
            return LinkPreview(audience, list_, faults=["the connection does not run here"])
        return await preview_audience(directory, audience, list_)

    async def preview_segment(self, name: str, segment: str, target: str) -> LinkPreview:
        directory = self._runtimes[name].directory if name in self._runtimes else None
        if directory is None:
            return LinkPreview(segment, target, faults=["the connection does not run here"])
        return await preview_segment(directory, segment, target)

    async def preview_person(
        self, connection: Connection, who: str, changes: Mapping[str, Any]
    ) -> list[PersonPreview]:
        """People with this address or id, before and after `changes` of the mapping's entries.
        Raises ConfigError."""
        mapping = load_mapping(connection.mapping, changes).mapping
        return await preview_person(self._store, connection.name, who, mapping)


def _sides(groups: Sequence[Group], entered: Entered) -> list[Side]:
    """The sides that decide whether what is entered is right: secrets, and what has no default. The
    webhook's secret is one that the platform presents."""
    entries = [setting.field for group in groups for setting in group.all]
    keys = {f.key for f in entries if (f.secret or f.needed) and f.key != _WEBHOOK_SECRET}
    changed = keys & {*entered.set, *entered.unset}
    found: list[Side] = ["klaviyo"] if "klaviyo.private_key" in changed else []
    return [*found, "platform"] if any(k.startswith("settings.") for k in changed) else found
