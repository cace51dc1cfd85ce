"""Contract of connector.ports.Settings and connector.ports.Audit."""

from __future__ import annotations

from connector.domain.lanes import Millis
from connector.ports import AuditEntry, SettingChange, Store, StoredSetting

_NOW = Millis(1_790_000_000_000)


class SettingsContract:
    """Subclass it beside a fixture `store` that yields an empty store."""

    async def test_changes_and_their_audit_entries_are_stored_together(self, store: Store) -> None:
        modules = StoredSetting("acme", "modules", ["events"])
        key = StoredSetting("acme", "klaviyo.private_key", None, "sealed-1")
        changes = [
            SettingChange(modules, before=["events", "actions"], after=["events"]),
            SettingChange(key, before="***", after="***"),
        ]
        await store.settings.change(changes, by="ana", now=_NOW)
        found = {s.key: s for s in await store.settings.all()}
        assert found["modules"].value == ["events"]
        assert found["modules"].changed_by == "ana"
        assert found["klaviyo.private_key"].sealed == "sealed-1"
        later = Millis(_NOW + 1)
        await store.settings.change([SettingChange(modules, remove=True)], by="bo", now=later)
        assert [s.key for s in await store.settings.all()] == ["klaviyo.private_key"]
        entries = await store.audit.find()
        assert [(e.what, e.by, e.subject) for e in entries] == [
            ("setting_removed", "bo", "modules"),
            ("setting_changed", "ana", "klaviyo.private_key"),
            ("setting_changed", "ana", "modules"),
        ]
        assert entries[2].before == ["events", "actions"]

    async def test_a_value_is_replaced_and_a_secret_resealed(self, store: Store) -> None:
        for value in ("live", "shadow"):
            setting = StoredSetting("acme", "mode", value)
            await store.settings.change([SettingChange(setting)], by="ana", now=_NOW)
        [found] = await store.settings.all()
        assert found.value == "shadow"
        secret = StoredSetting("acme", "settings.api_key", None, "old")
        await store.settings.change([SettingChange(secret)], by="ana", now=_NOW)
        await store.settings.reseal(StoredSetting("acme", "settings.api_key", None, "other"), "x")
        await store.settings.reseal(secret, "new")
        assert {s.sealed for s in await store.settings.all()} == {None, "new"}

    async def test_the_audit_log_is_paged_and_pruned(self, store: Store) -> None:
        for n in range(5):
            name = "acme" if n % 2 else "other"
            entry = AuditEntry(Millis(_NOW + n), "ana", "pause", name, before=n, after={"n": n})
            await store.audit.record(entry)
        page = await store.audit.find(limit=2)
        assert [entry.before for entry in page] == [4, 3]
        assert [e.before for e in await store.audit.find(before=page[-1].id)] == [2, 1, 0]
        assert [e.after for e in await store.audit.find(connection="acme")] == [{"n": 3}, {"n": 1}]
        assert await store.audit.prune(before=Millis(_NOW + 3), limit=2) == 2
        assert await store.audit.prune(before=Millis(_NOW + 3), limit=2) == 1
        assert [entry.before for entry in await store.audit.find()] == [4, 3]
