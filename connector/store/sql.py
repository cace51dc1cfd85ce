"""Opens the store: database, schema, and the ports on them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, inspect
from sqlalchemy.engine import make_url

from connector.ports import Store, StoredSetting
from connector.store import schema
from connector.store.admin.approvals import SqlApprovals
from connector.store.admin.audit import SqlAudit
from connector.store.admin.authorizations import SqlAuthorizations
from connector.store.admin.backfill_progress import SqlBackfillProgress
from connector.store.admin.backfills import SqlBackfills
from connector.store.admin.commands import SqlCommands
from connector.store.admin.dead_letters import SqlDeadLetters
from connector.store.admin.facts import SqlCheckpoints, SqlFacts
from connector.store.admin.hints import SqlHints
from connector.store.admin.lanes import SqlLanes
from connector.store.admin.leases import SqlLeases
from connector.store.admin.maintenance import SqlMaintenance
from connector.store.admin.notifications import SqlNotifications
from connector.store.admin.process_reports import SqlProcessReports
from connector.store.admin.reports import SqlReports
from connector.store.admin.secrets import SqlSecrets
from connector.store.admin.settings import SqlSettings, load_settings
from connector.store.admin.stuck_people import SqlStuckPeople
from connector.store.admin.timelines import SqlTimelines
from connector.store.database import Database, is_pooled, open_database
from connector.store.people.address_scopes import SqlAddressScopes
from connector.store.people.dry_runs import SqlDryRuns
from connector.store.people.erasure import SqlErasure
from connector.store.people.ledger import SqlLedger
from connector.store.people.people_index import SqlPeopleIndex
from connector.store.queues.action_decisions import SqlActionDecisions
from connector.store.queues.action_intake import SqlActionIntake
from connector.store.queues.action_views import SqlActionViews
from connector.store.queues.actions import SqlActionQueue
from connector.store.queues.membership_groups import SqlMemberGroups
from connector.store.queues.membership_scans import SqlGroupScans, SqlSegmentJoins
from connector.store.queues.membership_targets import SqlTargetMembers
from connector.store.queues.memberships import SqlMembershipQueue
from connector.store.queues.outbox import SqlOutbox
from connector.store.queues.profile_unsets import SqlUnsetFields
from connector.store.queues.profiles import SqlProfiles
from connector.store.queues.reads import SqlReads


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlStore(Store):
    """A store on SQLite or PostgreSQL, and its database."""

    database: Database


def store_on(database: Database, url: str, *, listen_url: str | None = None) -> SqlStore:
    """The ports of an open database whose schema is current. `listen_url` as in SqlHints."""
    profiles, memberships = SqlProfiles(database), SqlMembershipQueue(database)
    return SqlStore(
        database=database,
        outbox=SqlOutbox(database),
        reads=SqlReads(database),
        profiles=profiles,
        profile_receipts=profiles,
        unset_fields=SqlUnsetFields(database),
        memberships=memberships,
        membership_receipts=memberships,
        member_groups=SqlMemberGroups(database),
        group_scans=SqlGroupScans(database),
        target_members=SqlTargetMembers(database),
        segment_joins=SqlSegmentJoins(database),
        actions=SqlActionQueue(database),
        action_intake=SqlActionIntake(database),
        action_views=SqlActionViews(database),
        action_decisions=SqlActionDecisions(database),
        lanes=SqlLanes(database),
        leases=SqlLeases(database),
        checkpoints=SqlCheckpoints(database),
        facts=SqlFacts(database),
        commands=SqlCommands(database),
        approvals=SqlApprovals(database),
        dead_letters=SqlDeadLetters(database),
        stuck_people=SqlStuckPeople(database),
        notifications=SqlNotifications(database),
        secrets=SqlSecrets(database),
        authorizations=SqlAuthorizations(database),
        settings=SqlSettings(database),
        audit=SqlAudit(database),
        process_reports=SqlProcessReports(database),
        hints=SqlHints(database, listen_url),
        reports=SqlReports(database),
        timelines=SqlTimelines(database),
        people=SqlPeopleIndex(database),
        backfills=SqlBackfills(database),
        backfill_progress=SqlBackfillProgress(database),
        dry_runs=SqlDryRuns(database),
        erasure=SqlErasure(database),
        address_scopes=SqlAddressScopes(database),
        ledger=SqlLedger(database),
        maintenance=SqlMaintenance(database, file_of(url)),
    )


def file_of(url: str) -> Path | None:
    """The SQLite file of a store's address, None for PostgreSQL."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)


async def open_store(
    url: str,
    *,
    migrate: Literal["auto", "manual"] = "auto",
    create: bool = True,
    listen_url: str = "",
) -> SqlStore:
    """Open the store, bringing its schema up to this version where `migrate` is auto. `listen_url`
    leads past a pooler, where `url` leads to one.

    Raises StoreError(STORE_SCHEMA) where it is not current and may not be changed, or was written
    by a newer version with whose schema this one does not work; StoreInUse where older processes
    must end first; StoreError(STORE_UNAVAILABLE) where it cannot be opened, or there is none and
    `create` is False.
    """
    await asyncio.to_thread(schema.prepare, url, migrate, create=create)
    if not listen_url and file_of(url) is None and not is_pooled(url):
        listen_url = url
    return store_on(open_database(url), url, listen_url=listen_url or None)


async def stored_settings(url: str) -> Sequence[StoredSetting]:
    """The settings made at run time in a store that may not exist or be migrated yet: none then.
    Raises StoreError where it cannot be read."""
    path = file_of(url)
    if path is not None and not path.exists():
        return ()
    database = open_database(url)

    def work(c: Connection) -> list[StoredSetting]:
        return load_settings(c) if inspect(c).has_table("settings") else []

    try:
        return await database.read(work)
    finally:
        await database.aclose()
