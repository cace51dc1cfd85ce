"""The schema of 0.1.0."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("pinned_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("connection"),
    )
    op.create_table(
        "actions",
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failing_since", sa.BigInteger(), nullable=True),
        sa.Column("claim", sa.BigInteger(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("step", sa.SmallInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("counted_at", sa.BigInteger(), nullable=False),
        sa.Column("releasable", sa.SmallInteger(), nullable=False),
        sa.Column("forced", sa.SmallInteger(), nullable=False),
        sa.Column("suppressed", sa.Text(), nullable=True),
        sa.Column("person_key", sa.LargeBinary(), nullable=False),
        sa.Column("person", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("customer", sa.Text(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("sent_at", sa.BigInteger(), nullable=True),
        sa.Column("sent_with", sa.Text(), nullable=True),
        sa.Column("lookups", sa.SmallInteger(), nullable=False),
        sa.Column("resent", sa.SmallInteger(), nullable=False),
        sa.Column("settled_at", sa.BigInteger(), nullable=True),
        sa.Column("request", sa.Text(), nullable=True),
        sa.Column("platform_ref", sa.Text(), nullable=True),
        sa.Column("evidence", sa.Text(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_autoincrement=True,
    )
    op.create_index("actions_by_digest", "actions", ["digest"], unique=True)
    op.create_index("actions_by_lane", "actions", ["lane", "seq"], unique=False)
    op.create_index("actions_by_person_key", "actions", ["person_key", "counted_at"], unique=False)
    op.create_index("actions_by_time", "actions", ["lane", "counted_at"], unique=False)
    op.create_index(
        "actions_claimed",
        "actions",
        ["claim"],
        unique=False,
        sqlite_where=sa.text("state = 1"),
        postgresql_where=sa.text("state = 1"),
    )
    op.create_index(
        "actions_held",
        "actions",
        ["lane", "problem", "person_key", "amount"],
        unique=False,
        sqlite_where=sa.text("state = 4"),
        postgresql_where=sa.text("state = 4"),
    )
    op.create_index(
        "actions_of_unknown",
        "actions",
        ["customer"],
        unique=False,
        sqlite_where=sa.text("person IS NULL"),
        postgresql_where=sa.text("person IS NULL"),
    )
    op.create_index(
        "actions_ready",
        "actions",
        ["lane", "step", "priority", "due", "seq"],
        unique=False,
        sqlite_where=sa.text("state = 0"),
        postgresql_where=sa.text("state = 0"),
    )
    op.create_index(
        "actions_releasable",
        "actions",
        ["lane", "seq"],
        unique=False,
        sqlite_where=sa.text("releasable = 1"),
        postgresql_where=sa.text("releasable = 1"),
    )
    op.create_index(
        "actions_retrying",
        "actions",
        ["lane", "seq"],
        unique=False,
        sqlite_where=sa.text("state = 0 AND failing_since IS NOT NULL"),
        postgresql_where=sa.text("state = 0 AND failing_since IS NOT NULL"),
    )
    op.create_index(
        "actions_stuck",
        "actions",
        ["lane", "state", "problem", "seq"],
        unique=False,
        sqlite_where=sa.text("state IN (4, 5)"),
        postgresql_where=sa.text("state IN (4, 5)"),
    )
    op.create_index(
        "actions_stuck_by_seq",
        "actions",
        ["seq", "lane", "state", "problem"],
        unique=False,
        sqlite_where=sa.text("state IN (4, 5)"),
        postgresql_where=sa.text("state IN (4, 5)"),
    )
    op.create_index(
        "actions_uncertain",
        "actions",
        ["seq", "lane"],
        unique=False,
        sqlite_where=sa.text("state IN (0, 1) AND step = 1"),
        postgresql_where=sa.text("state IN (0, 1) AND step = 1"),
    )
    op.create_index(
        "actions_unsent",
        "actions",
        ["person_key", "seq"],
        unique=False,
        sqlite_where=sa.text("state IN (0, 1) AND step = 0"),
        postgresql_where=sa.text("state IN (0, 1) AND step = 0"),
    )
    op.create_table(
        "approvals",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("decided_at", sa.BigInteger(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "approvals_by_subject", "approvals", ["connection", "what", "subject"], unique=True
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_by_connection", "audit", ["connection", "id"], unique=False)
    op.create_index("audit_by_time", "audit", ["at"], unique=False)
    op.create_table(
        "authorizations",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("browser", sa.Text(), nullable=False),
        sa.Column("started_by", sa.Text(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index(
        "authorizations_by_connection", "authorizations", ["connection", "created_at"], unique=False
    )
    op.create_index("authorizations_by_expiry", "authorizations", ["expires_at"], unique=False)
    op.create_table(
        "backfills",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("args", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cursor", sa.Text(), nullable=True),
        sa.Column("exhausted", sa.SmallInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("counts", sa.Text(), nullable=False),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("backfills_by_connection", "backfills", ["connection", "id"], unique=False)
    op.create_table(
        "checkpoints",
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("cursor", sa.Text(), nullable=False),
        sa.Column("saved_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("connection", "stream"),
    )
    op.create_table(
        "commands",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("args", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("submitted_at", sa.BigInteger(), nullable=False),
        sa.Column("claimed_at", sa.BigInteger(), nullable=True),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("done_at", sa.BigInteger(), nullable=True),
        sa.Column("ok", sa.SmallInteger(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("commands_by_end", "commands", ["done_at"], unique=False)
    op.create_index("commands_by_idempotency_key", "commands", ["idempotency_key"], unique=True)
    op.create_index(
        "commands_open",
        "commands",
        ["id"],
        unique=False,
        sqlite_where=sa.text("done_at IS NULL"),
        postgresql_where=sa.text("done_at IS NULL"),
    )
    op.create_index(
        "commands_reloads",
        "commands",
        ["id"],
        unique=False,
        sqlite_where=sa.text("kind = 'reload'"),
        postgresql_where=sa.text("kind = 'reload'"),
    )
    op.create_table(
        "counts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("slot", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "owner", "key", "slot"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "deferred_memberships",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("person", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("platform_id", sa.Text(), nullable=True),
        sa.Column("audience", sa.Text(), nullable=False),
        sa.Column("joined", sa.SmallInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "deferred_memberships_by_person", "deferred_memberships", ["person"], unique=False
    )
    op.create_index("deferred_memberships_by_time", "deferred_memberships", ["at"], unique=False)
    op.create_table(
        "groups",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("target", sa.Integer(), nullable=False),
        sa.Column("active", sa.SmallInteger(), nullable=False),
        sa.Column("remote_id", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("remove_foreign", sa.SmallInteger(), nullable=False),
        sa.Column("writes_enabled", sa.SmallInteger(), nullable=False),
        sa.Column("scan", sa.BigInteger(), nullable=False),
        sa.Column("cursor", sa.Text(), nullable=True),
        sa.Column("scan_started_at", sa.BigInteger(), nullable=True),
        sa.Column("saved_at", sa.BigInteger(), nullable=True),
        sa.Column("completed_scan", sa.BigInteger(), nullable=False),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.Column("scan_ms", sa.BigInteger(), nullable=False),
        sa.Column("applied_scan", sa.BigInteger(), nullable=False),
        sa.Column("members", sa.BigInteger(), nullable=False),
        sa.Column("without_address", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "groups_by_name", "groups", ["connection", "kind", "name", "target"], unique=True
    )
    op.create_index("groups_by_target", "groups", ["target"], unique=False)
    op.create_table(
        "identifiers",
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column(
            "person",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("connection", "kind", "value", "person"),
        sqlite_with_rowid=False,
    )
    op.create_index("identifiers_by_person", "identifiers", ["person"], unique=False)
    op.create_index(
        "identifiers_of_one_person",
        "identifiers",
        ["connection", "kind", "value"],
        unique=True,
        sqlite_where=sa.text("kind <> 'email'"),
        postgresql_where=sa.text("kind <> 'email'"),
    )
    op.create_table(
        "journal",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("person", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=True),
        sa.Column("data", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("journal_by_person", "journal", ["person", "id"], unique=False)
    op.create_index("journal_by_time", "journal", ["at"], unique=False)
    op.create_table(
        "lanes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("lanes_by_route", "lanes", ["connection", "destination", "kind"], unique=True)
    op.create_table(
        "leases",
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("resource"),
    )
    op.create_table(
        "mappings",
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("first_used", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_table(
        "memberships",
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failing_since", sa.BigInteger(), nullable=True),
        sa.Column("claim", sa.BigInteger(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("change", sa.SmallInteger(), nullable=False),
        sa.Column("target", sa.Integer(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("address", sa.LargeBinary(), nullable=False),
        sa.Column("wanted", sa.SmallInteger(), nullable=False),
        sa.Column("confirmed", sa.SmallInteger(), nullable=True),
        sa.Column("sent", sa.SmallInteger(), nullable=True),
        sa.Column("added_by_us", sa.SmallInteger(), nullable=False),
        sa.Column("unconfirmed", sa.SmallInteger(), nullable=False),
        sa.Column("last_seen_scan", sa.BigInteger(), nullable=False),
        sa.Column("lost_jobs", sa.SmallInteger(), nullable=False),
        sa.Column("ambiguous_until", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("receipt", sa.Text(), nullable=True),
        sa.Column("position", sa.Integer(), nullable=True),
        sa.Column("request", sa.Text(), nullable=True),
        sa.Column("settled_at", sa.BigInteger(), nullable=False),
        sa.Column("profile_id", sa.Text(), nullable=True),
        sa.Column("platform_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "memberships_by_address",
        "memberships",
        ["address"],
        unique=False,
        sqlite_where=sa.text("state = 1"),
        postgresql_where=sa.text("state = 1"),
    )
    op.create_index("memberships_by_email", "memberships", ["target", "email"], unique=True)
    op.create_index(
        "memberships_in_flight",
        "memberships",
        ["lane", "receipt", "id"],
        unique=False,
        sqlite_where=sa.text("state = 1"),
        postgresql_where=sa.text("state = 1"),
    )
    op.create_index(
        "memberships_ready",
        "memberships",
        ["lane", "change", "priority", "due", "id"],
        unique=False,
        sqlite_where=sa.text("state = 0"),
        postgresql_where=sa.text("state = 0"),
    )
    op.create_index(
        "memberships_retrying",
        "memberships",
        ["lane", "id"],
        unique=False,
        sqlite_where=sa.text("state = 0 AND failing_since IS NOT NULL"),
        postgresql_where=sa.text("state = 0 AND failing_since IS NOT NULL"),
    )
    op.create_index(
        "memberships_skipped",
        "memberships",
        ["lane", "id"],
        unique=False,
        sqlite_where=sa.text("state = 3"),
        postgresql_where=sa.text("state = 3"),
    )
    op.create_index(
        "memberships_stuck",
        "memberships",
        ["lane", "state", "problem", "id"],
        unique=False,
        sqlite_where=sa.text("state IN (4, 5)"),
        postgresql_where=sa.text("state IN (4, 5)"),
    )
    op.create_table(
        "merges",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("person", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "merged_into", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("merges_by_person", "merges", ["person"], unique=False)
    op.create_index("merges_by_target", "merges", ["merged_into"], unique=False)
    op.create_table(
        "notifications",
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("sent_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("target", "key"),
    )
    op.create_table(
        "outbox",
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failing_since", sa.BigInteger(), nullable=True),
        sa.Column("claim", sa.BigInteger(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("delivery_mode", sa.SmallInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("unique_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("via", sa.Text(), nullable=False),
        sa.Column("suppressed", sa.Text(), nullable=True),
        sa.Column("person", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("mapping", sa.Text(), nullable=True),
        sa.Column("settled_at", sa.BigInteger(), nullable=True),
        sa.Column("request", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("outbox_by_digest", "outbox", ["digest"], unique=True)
    op.create_index("outbox_by_person", "outbox", ["person", "seq"], unique=False)
    op.create_index(
        "outbox_claimed",
        "outbox",
        ["claim"],
        unique=False,
        sqlite_where=sa.text("state = 1"),
        postgresql_where=sa.text("state = 1"),
    )
    op.create_index(
        "outbox_ready",
        "outbox",
        ["lane", "delivery_mode", "priority", "due", "seq"],
        unique=False,
        sqlite_where=sa.text("state = 0"),
        postgresql_where=sa.text("state = 0"),
    )
    op.create_index(
        "outbox_retrying",
        "outbox",
        ["lane", "seq"],
        unique=False,
        sqlite_where=sa.text("state = 0 AND failing_since IS NOT NULL"),
        postgresql_where=sa.text("state = 0 AND failing_since IS NOT NULL"),
    )
    op.create_index(
        "outbox_stuck",
        "outbox",
        ["lane", "state", "problem", "seq"],
        unique=False,
        sqlite_where=sa.text("state IN (4, 5)"),
        postgresql_where=sa.text("state IN (4, 5)"),
    )
    op.create_index(
        "outbox_stuck_by_seq",
        "outbox",
        ["seq", "lane", "state", "problem"],
        unique=False,
        sqlite_where=sa.text("state IN (4, 5)"),
        postgresql_where=sa.text("state IN (4, 5)"),
    )
    op.create_index(
        "outbox_waiting",
        "outbox",
        ["lane", "seq"],
        unique=False,
        sqlite_where=sa.text("state = 0 AND seq > 0"),
        postgresql_where=sa.text("state = 0 AND seq > 0"),
    )
    op.create_table(
        "people",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("platform_id", sa.Text(), nullable=True),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("gone_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("people_by_connection", "people", ["connection", "id"], unique=False)
    op.create_index(
        "people_with_address_only",
        "people",
        ["connection", "email"],
        unique=True,
        sqlite_where=sa.text("platform_id IS NULL"),
        postgresql_where=sa.text("platform_id IS NULL"),
    )
    op.create_table(
        "process_reports",
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("saved_at", sa.BigInteger(), nullable=False),
        sa.Column("offers", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("holder"),
    )
    op.create_index(
        "process_reports_by_time", "process_reports", ["saved_at", "holder"], unique=False
    )
    op.create_table(
        "profiles",
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failing_since", sa.BigInteger(), nullable=True),
        sa.Column("claim", sa.BigInteger(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column(
            "person",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("write_mode", sa.SmallInteger(), nullable=False),
        sa.Column("address", sa.LargeBinary(), nullable=True),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("receipt", sa.Text(), nullable=True),
        sa.Column("position", sa.Integer(), nullable=True),
        sa.Column("sent", sa.LargeBinary(), nullable=True),
        sa.Column("request", sa.Text(), nullable=True),
        sa.Column("settled_at", sa.BigInteger(), nullable=True),
        sa.Column("mapping", sa.Text(), nullable=True),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("wanted", sa.Text(), nullable=False),
        sa.Column("confirmed", sa.Text(), nullable=False),
        sa.Column("ambiguous_until", sa.BigInteger(), nullable=False),
        sa.Column("address_cleanups", sa.Text(), nullable=True),
        sa.Column("pending_move", sa.Text(), nullable=True),
        sa.Column("profile_id", sa.Text(), nullable=True),
        sa.Column("lost_jobs", sa.SmallInteger(), nullable=False),
        sa.Column(
            "merged_into", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.PrimaryKeyConstraint("person"),
    )
    op.create_index("profiles_by_address", "profiles", ["address"], unique=False)
    op.create_index(
        "profiles_claimed",
        "profiles",
        ["claim"],
        unique=False,
        sqlite_where=sa.text("state = 1"),
        postgresql_where=sa.text("state = 1"),
    )
    op.create_index(
        "profiles_in_flight",
        "profiles",
        ["lane", "receipt", "person"],
        unique=False,
        sqlite_where=sa.text("state = 1"),
        postgresql_where=sa.text("state = 1"),
    )
    op.create_index(
        "profiles_merged",
        "profiles",
        ["merged_into"],
        unique=False,
        sqlite_where=sa.text("merged_into IS NOT NULL"),
        postgresql_where=sa.text("merged_into IS NOT NULL"),
    )
    op.create_index(
        "profiles_ready",
        "profiles",
        ["lane", "write_mode", "priority", "due", "person"],
        unique=False,
        sqlite_where=sa.text("state = 0"),
        postgresql_where=sa.text("state = 0"),
    )
    op.create_index(
        "profiles_retrying",
        "profiles",
        ["lane", "person"],
        unique=False,
        sqlite_where=sa.text("state = 0 AND failing_since IS NOT NULL"),
        postgresql_where=sa.text("state = 0 AND failing_since IS NOT NULL"),
    )
    op.create_index(
        "profiles_skipped",
        "profiles",
        ["lane", "person"],
        unique=False,
        sqlite_where=sa.text("state = 3"),
        postgresql_where=sa.text("state = 3"),
    )
    op.create_index(
        "profiles_stuck",
        "profiles",
        ["lane", "state", "problem", "person"],
        unique=False,
        sqlite_where=sa.text("state IN (4, 5)"),
        postgresql_where=sa.text("state IN (4, 5)"),
    )
    op.create_table(
        "quota_usage",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("second", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("account", "endpoint", "second"),
    )
    op.create_index("quota_usage_by_second", "quota_usage", ["second"], unique=False)
    op.create_table(
        "reads",
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failing_since", sa.BigInteger(), nullable=True),
        sa.Column("claim", sa.BigInteger(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column(
            "person",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("sent_at", sa.BigInteger(), nullable=False),
        sa.Column("view", sa.LargeBinary(), nullable=True),
        sa.Column("view_at", sa.BigInteger(), nullable=True),
        sa.Column("refetch", sa.SmallInteger(), nullable=False),
        sa.Column("backfill", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.PrimaryKeyConstraint("person"),
    )
    op.create_index(
        "reads_claimed",
        "reads",
        ["claim"],
        unique=False,
        sqlite_where=sa.text("state = 1"),
        postgresql_where=sa.text("state = 1"),
    )
    op.create_index(
        "reads_of_backfill",
        "reads",
        ["backfill"],
        unique=False,
        sqlite_where=sa.text("backfill IS NOT NULL"),
        postgresql_where=sa.text("backfill IS NOT NULL"),
    )
    op.create_index(
        "reads_ready",
        "reads",
        ["lane", "priority", "due", "person"],
        unique=False,
        sqlite_where=sa.text("state = 0"),
        postgresql_where=sa.text("state = 0"),
    )
    op.create_index(
        "reads_retrying",
        "reads",
        ["lane", "person"],
        unique=False,
        sqlite_where=sa.text("state = 0 AND failing_since IS NOT NULL"),
        postgresql_where=sa.text("state = 0 AND failing_since IS NOT NULL"),
    )
    op.create_index(
        "reads_stuck",
        "reads",
        ["lane", "state", "problem", "person"],
        unique=False,
        sqlite_where=sa.text("state IN (4, 5)"),
        postgresql_where=sa.text("state IN (4, 5)"),
    )
    op.create_table(
        "requests",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("sent_at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("millis", sa.Integer(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("requests_by_time", "requests", ["sent_at"], unique=False)
    op.create_table(
        "salts",
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("connection"),
    )
    op.create_table(
        "secrets",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("info", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("claim", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name"),
    )
    op.create_table(
        "settings",
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=True),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("connection", "key"),
    )
    op.create_table(
        "source_members",
        sa.Column("source", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("scan", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("gone", sa.SmallInteger(), nullable=False),
        sa.Column("join_pending", sa.SmallInteger(), nullable=False),
        sa.Column("joined_at", sa.BigInteger(), nullable=True),
        sa.Column("profile_id", sa.Text(), nullable=True),
        sa.Column("platform_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("source", "email"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "source_members_join_pending",
        "source_members",
        ["source", "email"],
        unique=False,
        sqlite_where=sa.text("join_pending = 1"),
        postgresql_where=sa.text("join_pending = 1"),
    )
    op.create_table(
        "throughput",
        sa.Column("lane", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("minute", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("entries", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("lane", "minute"),
    )
    op.create_index("throughput_by_minute", "throughput", ["minute"], unique=False)
    op.create_table(
        "tombstones",
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("erasure_id", sa.Text(), nullable=False),
        sa.Column("erased_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("connection", "digest"),
    )
    op.create_table(
        "unset_fields",
        sa.Column("lane", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("people", sa.BigInteger(), nullable=False),
        sa.Column("writes", sa.BigInteger(), nullable=False),
        sa.Column("allowed", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("lane", "field"),
    )
