"""Settings of a connection that a person changes at run time: checked as a file is, stored below
the files, applied without a restart, and audited."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from connector.config import (
    Config,
    Override,
    dotted_key,
    is_secret_key,
    is_settable,
    parse_key,
    with_overrides,
)
from connector.config.overrides import ALLOWED, UNSET_HINT, Key
from connector.domain.errors import ConfigError, Problem
from connector.domain.lanes import (
    ACTIONS,
    EVENTS,
    LIST_MEMBERS,
    PROFILES,
    READS,
    SEGMENT_MEMBERS,
    Millis,
)
from connector.domain.oauth import KLAVIYO_OAUTH
from connector.mapping import entries as mapping_entries
from connector.mapping import load as load_mapping
from connector.ports import Clock, SettingChange, Store, StoredSetting
from connector.runtime.encryption import Cipher, UnreadableSecret
from connector.service.setting_secrets import SEALED, cipher_of, settings_model

HIDDEN = "***"

_MODULES = {
    EVENTS: "events",
    PROFILES: "profiles",
    READS: "profiles",
    LIST_MEMBERS: "audiences",
    SEGMENT_MEMBERS: "segments",
    ACTIONS: "actions",
}
Apply = Callable[[], Awaitable[object]]


def open_settings(stored: Sequence[StoredSetting], cipher: Cipher) -> list[Override]:
    """The stored settings with their secrets decrypted. Raises ConfigError with a line for each
    secret that no key opens."""
    found: list[Override] = []
    faults: list[str] = []
    for setting in stored:
        value = setting.value
        if setting.sealed is not None:
            try:
                value = cipher.open(setting.sealed)
            except UnreadableSecret as error:
                faults.append(f"connections.{setting.connection}.{setting.key}: {error.detail}")
                continue
        found.append(
            Override(
                setting.connection,
                parse_key(setting.key),
                value,
                setting.changed_by,
                setting.changed_at,
            )
        )
    if faults:
        raise ConfigError(faults, Problem.ENCRYPTION_KEY)
    return found


def effective_config(config: Config, stored: Sequence[StoredSetting]) -> Config:
    """The configuration of the files with the settings made at run time. Raises ConfigError."""
    return with_overrides(config, open_settings(stored, cipher_of(config)))


class SettingsService:
    """`read` reads the files again, without the settings made at run time; `apply` takes the
    stored settings into use, where connections run."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        config: Callable[[], Config],
        read: Callable[[], Config],
        apply: Apply,
    ) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._read = read
        self._apply = apply
        self._lock = asyncio.Lock()

    async def add(
        self, connection: str, source: str, changes: Mapping[str, Any], *, by: str
    ) -> dict[str, Any]:
        """Make a connection to the platform `source` with these settings. One that is not
        `enabled` may lack what a connection needs to run: `change` completes it. Raises
        ConfigError, after which nothing has changed."""
        if connection == "new":
            raise ConfigError(['connections.new.name: found "new", which is a page of the console'])
        known = {found.name for found in self._config().connections}
        known |= {found.connection for found in await self._store.settings.all()}
        if connection in known:
            fault = f'connections.{connection}.name: found "{connection}", which exists already, '
            raise ConfigError([fault + "allowed another name"])
        return await self.change(connection, {"source": source, **changes}, by=by)

    async def remove_connection(self, connection: str, *, by: str) -> dict[str, Any]:
        """Remove a connection that was made at run time and is deactivated. What it received and
        sent stays in the store as long as `[retention]` says. Raises ConfigError."""
        config = self._config()
        keys = [s.key for s in await self._store.settings.all() if s.connection == connection]
        label = f"connections.{connection}"
        if "source" not in keys or config.is_set(f"{label}.name"):
            raise ConfigError([f"{label}: not made at run time: remove it from its file"])
        if config.connection(connection).enabled:
            raise ConfigError([f"{label}.enabled: found true, allowed false: deactivate it first"])
        if await self._store.secrets.get(connection, KLAVIYO_OAUTH) is not None:
            raise ConfigError([f"{label}: Klaviyo is connected by OAuth: disconnect it first"])
        return await self.change(connection, remove=keys, by=by)

    async def change(
        self,
        connection: str,
        changes: Mapping[str, Any] | None = None,
        *,
        remove: Sequence[str] = (),
        by: str,
    ) -> dict[str, Any]:
        """Set and remove settings of one connection, all or none of them.

        A key is dotted as in a file (`modules`, `mapping.profile.fields.balance.enabled`), a value
        as a file has it. Returns the keys that changed. Raises ConfigError, after which nothing
        has changed, for a key that a file sets or that cannot be set at run time, and for a
        configuration that is invalid with it.
        """
        async with self._lock:
            stored = {(s.connection, s.key): s for s in await self._store.settings.all()}
            config = self._config()
            made_here = stored.get((connection, "source"))
            source = made_here.value if made_here else (changes or {}).get("source")
            model = settings_model(config, connection, source)
            made = [self._set(config, connection, k, v, model) for k, v in (changes or {}).items()]
            made += [self._removed(connection, key, stored) for key in remove]
            made = [self._with_audit(config, change, stored) for change in made]
            changed = [change for change in made if change.remove or not _same(change, stored)]
            await self._check(stored, changed)
            now = self._clock.now()
            await self._store.settings.change(changed, by=by, now=now)
            try:
                await self._apply()
            except ConfigError:
                await self._revert(stored, changed, now)
                raise
        return {"connection": connection, "changed": [c.setting.key for c in changed]}

    async def switch_modules(
        self, connection: str, names: Sequence[str], *, on: bool, by: str
    ) -> dict[str, Any]:
        """Switch modules on or off. What was acknowledged waits while its module is off."""
        try:
            modules = list(self._config().connection(connection).modules)
        except KeyError:
            raise ConfigError([f"no connection {connection!r}"]) from None
        if unknown := [name for name in names if name not in _MODULES.values()]:
            allowed = ", ".join(dict.fromkeys(_MODULES.values()))
            label = f"connections.{connection}.modules"
            raise ConfigError([f'{label}: found "{n}", allowed {allowed}' for n in unknown])
        kept = [name for name in modules if name not in names]
        wanted = list(dict.fromkeys([*modules, *names])) if on else kept
        result = await self.change(connection, {"modules": wanted}, by=by)
        waiting = 0 if on else await self._waiting(connection, names)
        return {**result, "modules": ", ".join(wanted) or "none", "waiting": waiting}

    async def _waiting(self, connection: str, modules: Sequence[str]) -> int:
        """Records of these modules that are not delivered."""
        return sum(
            backlog.ready + backlog.claimed + backlog.held
            for backlog in await self._store.reports.backlog()
            if backlog.lane.connection == connection and _MODULES[backlog.lane.lane_kind] in modules
        )

    # ── one change ───────────────────────────────────────────────────────────────────────────────

    def _set(
        self,
        config: Config,
        connection: str,
        text: str,
        value: Any,
        model: type[BaseModel] | None,
    ) -> SettingChange:
        key = _parsed(connection, text)
        dotted = dotted_key(key)
        label = f"connections.{connection}.{dotted}"
        if key[0] != "mapping" and config.is_set(label):
            raise ConfigError([f"{label}: found in a file, allowed there only: change it there"])
        if key[0] == "mapping":
            _check_entry(config, connection, key, value)
        sealed = value[SEALED] if isinstance(value, dict) and SEALED in value else None
        if is_secret_key(key, model):
            sealed, value = sealed or cipher_of(config).seal(value), None
        elif sealed is not None:  # whoever sent it did not know the platform's settings
            value, sealed = cipher_of(config).open(sealed), None
        return SettingChange(StoredSetting(connection, dotted, value, sealed))

    def _removed(
        self,
        connection: str,
        text: str,
        stored: Mapping[tuple[str, str], StoredSetting],
    ) -> SettingChange:
        dotted = dotted_key(_parsed(connection, text))
        found = stored.get((connection, dotted))
        if found is None:
            names = ", ".join(key for name, key in stored if name == connection) or "nothing"
            raise ConfigError(
                [f"connections.{connection}.{dotted}: not set at run time; set are: {names}"]
            )
        return SettingChange(found, remove=True)

    def _with_audit(
        self,
        config: Config,
        change: SettingChange,
        stored: Mapping[tuple[str, str], StoredSetting],
    ) -> SettingChange:
        """The change with what it was before and is after. Where it was not set at run time, the
        default or what a file leads to."""
        setting = change.setting
        known = stored.get((setting.connection, setting.key))
        before = _shown(known) if known else _value_in(config, setting)
        after = None if change.remove else _shown(setting)
        return SettingChange(setting, change.remove, before, after)

    async def _check(
        self, stored: Mapping[tuple[str, str], StoredSetting], changes: Sequence[SettingChange]
    ) -> None:
        """Raise ConfigError where the changes make the configuration invalid. What was invalid
        before stays so: it may take several changes to complete it."""
        wanted = dict(stored)
        for change in changes:
            place = (change.setting.connection, change.setting.key)
            if change.remove:
                wanted.pop(place, None)
            else:
                wanted[place] = change.setting
        config, faults = self._with(wanted)
        keys = {f"connections.{c.setting.connection}.{c.setting.key}" for c in changes}
        if faults and (new := [line for line in faults if line not in self._with(stored)[1]]):
            raise ConfigError([_without_origin(line, keys) for line in new])
        if config is None:
            return
        removed = {c.setting.connection for c in changes if c.remove and c.setting.key == "source"}
        for name in {change.setting.connection for change in changes} - removed:
            try:
                connection = config.connection(name)
            except KeyError:
                raise ConfigError([f"no connection {name!r}"]) from None
            load_mapping(connection.mapping, connection.mapping_changes)

    def _with(
        self, stored: Mapping[tuple[str, str], StoredSetting]
    ) -> tuple[Config | None, Sequence[str]]:
        """The configuration of the files with these settings, or its faults."""
        files = self._read()
        try:
            overrides = open_settings(list(stored.values()), cipher_of(files))
            return with_overrides(files, overrides), ()
        except ConfigError as error:
            return None, error.faults

    async def _revert(
        self,
        stored: Mapping[tuple[str, str], StoredSetting],
        changes: Sequence[SettingChange],
        now: Millis,
    ) -> None:
        """The connections could not be built with the changes: store what was before."""
        back = []
        for change in changes:
            known = stored.get((change.setting.connection, change.setting.key))
            back.append(
                SettingChange(
                    known or change.setting,
                    remove=known is None,
                    before=change.after,
                    after=change.before,
                )
            )
        await self._store.settings.change(back, by="connector, as it was rejected", now=now)


def _without_origin(line: str, keys: set[str]) -> str:
    """A fault of the change itself without the advice to remove what is not stored."""
    if any(line.startswith((f"{key}:", f"{key}.")) for key in keys):
        return line.partition(UNSET_HINT)[0]
    return line


def _parsed(connection: str, text: str) -> Key:
    """Raises ConfigError for what cannot be set at run time."""
    try:
        key = parse_key(text)
    except ValueError:
        key = ()
    if not is_settable(key):
        close = difflib.get_close_matches(text, ALLOWED.split(", "), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(
            [f"connections.{connection}.{text}: not settable at run time, allowed {ALLOWED}{hint}"]
        )
    return key


def _check_entry(config: Config, connection: str, key: Key, value: Any) -> None:
    """A mapping's entry exists, or is of an event that the mapping does not name, and is switched
    by a boolean."""
    label = f"connections.{connection}.{dotted_key(key)}"
    if not isinstance(value, bool):
        raise ConfigError([f"{label}: found another type, allowed true or false"])
    try:
        mapping = load_mapping(config.connection(connection).mapping).mapping
    except KeyError:
        raise ConfigError([f"no connection {connection!r}"]) from None
    known = mapping_entries(mapping, key[1], key[2])
    if key[3] not in known and key[1] != "events":
        close = difflib.get_close_matches(key[3], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError([f"{label}: the mapping has no such entry{hint}"])


def _shown(setting: StoredSetting) -> Any:
    return HIDDEN if setting.sealed is not None else setting.value


def _same(change: SettingChange, stored: Mapping[tuple[str, str], StoredSetting]) -> bool:
    known = stored.get((change.setting.connection, change.setting.key))
    return (
        known is not None
        and known.sealed is None
        and change.setting.sealed is None
        and known.value == change.setting.value
    )


def _value_in(config: Config, setting: StoredSetting) -> Any:
    """The value in effect, in JSON's types; None for a mapping's entry and an unknown
    connection, *** for a secret."""
    if setting.sealed is not None:
        return HIDDEN
    try:
        value: Any = config.connection(setting.connection)
    except KeyError:
        return None
    for part in parse_key(setting.key):
        value = getattr(value, part, None)
    if isinstance(value, tuple):
        return [
            item.model_dump(mode="json") if isinstance(item, BaseModel) else item for item in value
        ]
    return value if isinstance(value, str | int | bool) else None
