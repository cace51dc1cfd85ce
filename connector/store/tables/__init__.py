"""The tables. Instants are ms since 1970 UTC in 64-bit columns, on both engines alike.

Hot paths use these tables through Core statements, never through the ORM.
"""

from __future__ import annotations

from connector.store.tables.admin import (
    RELOADS,
    accounts,
    approvals,
    backfills,
    checkpoints,
    commands,
    lanes,
    leases,
    mappings,
    notifications,
    process_reports,
    quota_usage,
    throughput,
)
from connector.store.tables.columns import metadata
from connector.store.tables.counts import counts
from connector.store.tables.people import (
    deferred_memberships,
    groups,
    identifiers,
    journal,
    merges,
    people,
    salts,
    source_members,
    tombstones,
    unset_fields,
)
from connector.store.tables.queues import (
    QueueTable,
    actions,
    actions_queue,
    memberships,
    memberships_queue,
    outbox,
    outbox_queue,
    profiles,
    profiles_queue,
    reads,
    reads_queue,
    requests,
)
from connector.store.tables.secrets import authorizations, secrets
from connector.store.tables.settings import audit, settings
from connector.store.tables.states import (
    STUCK,
    TableOrAlias,
    in_state,
    is_retrying,
    is_stuck,
    is_waiting_record,
)

__all__ = [
    "RELOADS",
    "STUCK",
    "QueueTable",
    "TableOrAlias",
    "accounts",
    "actions",
    "actions_queue",
    "approvals",
    "audit",
    "authorizations",
    "backfills",
    "checkpoints",
    "commands",
    "counts",
    "deferred_memberships",
    "groups",
    "identifiers",
    "in_state",
    "is_retrying",
    "is_stuck",
    "is_waiting_record",
    "journal",
    "lanes",
    "leases",
    "mappings",
    "memberships",
    "memberships_queue",
    "merges",
    "metadata",
    "notifications",
    "outbox",
    "outbox_queue",
    "people",
    "process_reports",
    "profiles",
    "profiles_queue",
    "quota_usage",
    "reads",
    "reads_queue",
    "requests",
    "salts",
    "secrets",
    "settings",
    "source_members",
    "throughput",
    "tombstones",
    "unset_fields",
]
