"""The SQL store whole: opens the database, checks or migrates its schema, offers the ports."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Literal

from sqlalchemy.engine import make_url

from connector.store import schema
from connector.store.admin import vacuum
from connector.store.admin.approvals import SqlApprovals
from connector.store.admin.backfill_progress import SqlBackfillProgress
from connector.store.admin.backfills import SqlBackfills
from connector.store.admin.dead_letters import SqlDeadLetters
from connector.store.admin.facts import SqlCheckpoints, SqlFacts
from connector.store.admin.lanes import SqlCommands, SqlLanes
from connector.store.admin.leases import SqlLeases
from connector.store.admin.notices import SqlNotices
from connector.store.admin.reports import SqlReports
from connector.store.database import Database, open_database
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
from connector.store.queues.profiles import SqlProfiles
from connector.store.queues.reads import SqlReads


class SqlStore(SqlOutbox):
    """connector.ports.Store on SQLite or PostgreSQL."""

    def __init__(self, url: str, database: Database) -> None:
        self.profiles = SqlProfiles(database)
        super().__init__(database)
        self.url = url
        self.dead_letters = SqlDeadLetters(database)
        self.lanes = SqlLanes(database)
        self.reports = SqlReports(database)
        self.checkpoints = SqlCheckpoints(database)
        self.facts = SqlFacts(database)
        self.leases = SqlLeases(database)
        self.commands = SqlCommands(database)
        self.reads = SqlReads(database)
        self.approvals = SqlApprovals(database)
        self.memberships = SqlMembershipQueue(database)
        self.member_groups = SqlMemberGroups(database)
        self.group_scans = SqlGroupScans(database)
        self.target_members = SqlTargetMembers(database)
        self.segment_joins = SqlSegmentJoins(database)
        self.notifications = SqlNotices(database)
        self.erasure = SqlErasure(database)
        self.ledger = SqlLedger(database)
        self.backfills = SqlBackfills(database)
        self.backfill_progress = SqlBackfillProgress(database)
        self.dry_runs = SqlDryRuns(database)
        self.people = SqlPeopleIndex(database)
        self.actions = SqlActionQueue(database)
        self.action_intake = SqlActionIntake(database)
        self.action_views = SqlActionViews(database)
        self.action_decisions = SqlActionDecisions(database)

    def free_bytes(self) -> int | None:
        """Free disk where the store writes; None for a store on another machine."""
        path = file_of(self.url)
        return shutil.disk_usage(path.parent).free if path else None

    def size_bytes(self) -> int | None:
        """The store's files on disk, the write-ahead log included; None where not ours to see."""
        path = file_of(self.url)
        if path is None:
            return None
        files = (path, path.with_name(path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    async def free_pages(self, pages: int) -> int:
        """Return up to `pages` free pages to the disk, while much of the file is free; how many
        were. One short transaction."""
        return await self._database.write(lambda c: vacuum.free_pages(c, pages))

    async def aclose(self) -> None:
        await self._database.aclose()


def file_of(url: str) -> Path | None:
    """The SQLite file of a store's address, None for PostgreSQL."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)


async def open_store(url: str, *, migrate: Literal["auto", "manual"] = "auto") -> SqlStore:
    """Open the store, bringing its schema up to this version where `migrate` is auto.

    Raises StoreError(STORE_SCHEMA) where it is not current and may not be changed, or was written
    by a newer version; StoreError(STORE_UNAVAILABLE) where it cannot be opened.
    """
    await asyncio.to_thread(schema.prepare, url, migrate)
    return SqlStore(url, open_database(url))
