"""Settings made at run time, with an audit entry for each change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, delete, select, update

from connector.domain.lanes import Millis
from connector.ports.settings import AuditEntry, SettingChange, StoredSetting
from connector.store.admin.audit import add_audit_entry
from connector.store.database import Database
from connector.store.prepared import Prepared
from connector.store.statements import upsert
from connector.store.tables import settings

_KEY = ("connection", "key")
_COLUMNS = tuple(settings.c[name] for name in StoredSetting.__dataclass_fields__)
_ALL = Prepared(select(*_COLUMNS).order_by(settings.c.connection, settings.c.key))


def _load(row: Any) -> StoredSetting:
    values = dict(zip(StoredSetting.__dataclass_fields__, row, strict=True))
    return StoredSetting(**{**values, "value": orjson.loads(values["value"])})


def load_settings(c: Connection) -> list[StoredSetting]:
    return [_load(row) for row in _ALL.rows(c)]


class SqlSettings:
    """connector.ports.Settings."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> Sequence[StoredSetting]:
        return await self._database.read(load_settings)

    async def change(self, changes: Sequence[SettingChange], *, by: str, now: Millis) -> None:
        def work(c: Connection) -> None:
            for change in changes:
                _apply(c, change, by, now)

        await self._database.write(work)

    async def reseal(self, setting: StoredSetting, sealed: str) -> None:
        statement = (
            update(settings)
            .where(
                settings.c.connection == setting.connection,
                settings.c.key == setting.key,
                settings.c.sealed == setting.sealed,
            )
            .values(sealed=sealed)
        )
        await self._database.write(lambda c: c.execute(statement))


def _apply(c: Connection, change: SettingChange, by: str, now: Millis) -> None:
    setting = change.setting
    if change.remove:
        c.execute(
            delete(settings).where(
                settings.c.connection == setting.connection, settings.c.key == setting.key
            )
        )
    else:
        statement = upsert(c.dialect.name, settings)
        values = {
            "connection": setting.connection,
            "key": setting.key,
            "value": orjson.dumps(setting.value).decode(),
            "sealed": setting.sealed,
            "changed_by": by,
            "changed_at": now,
        }
        changed = {name: statement.excluded[name] for name in values if name not in _KEY}
        c.execute(
            statement.on_conflict_do_update(index_elements=list(_KEY), set_=changed), [values]
        )
    what = "setting_removed" if change.remove else "setting_changed"
    add_audit_entry(
        c,
        AuditEntry(now, by, what, setting.connection, setting.key, change.before, change.after),
    )
