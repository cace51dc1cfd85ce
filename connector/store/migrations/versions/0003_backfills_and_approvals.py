"""Backfills, and questions that wait for a person"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


_ROW = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "backfills",
        sa.Column("id", _ROW, nullable=False),
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
    with op.batch_alter_table("backfills", schema=None) as batch_op:
        batch_op.create_index("backfills_by_connection", ["connection", "id"], unique=False)
    with op.batch_alter_table("reads", schema=None) as batch_op:
        batch_op.add_column(sa.Column("backfill", _ROW, nullable=True))
        batch_op.create_index(
            "reads_of_backfill",
            ["backfill"],
            unique=False,
            sqlite_where=sa.text("backfill IS NOT NULL"),
            postgresql_where=sa.text("backfill IS NOT NULL"),
        )
    op.create_table(
        "approvals",
        sa.Column("id", _ROW, nullable=False),
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("decided_at", sa.BigInteger(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("approvals", schema=None) as batch_op:
        batch_op.create_index(
            "approvals_by_subject", ["connection", "what", "subject"], unique=True
        )
    op.create_table(
        "notices",
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("told_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("target", "key"),
    )
    op.create_table(
        "salts",
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("connection"),
    )
    op.create_table(
        "forgotten",
        sa.Column("connection", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("grave", sa.Text(), nullable=False),
        sa.Column("forgotten_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("connection", "digest"),
    )
    with op.batch_alter_table("profiles", schema=None) as batch_op:
        batch_op.create_index(
            "profiles_skipped",
            ["lane", "person"],
            unique=False,
            sqlite_where=sa.text("state = 3"),
            postgresql_where=sa.text("state = 3"),
        )


def downgrade() -> None:
    op.drop_index("profiles_skipped", "profiles")
    op.drop_table("forgotten")
    op.drop_table("salts")
    op.drop_table("notices")
    op.drop_table("approvals")
    with op.batch_alter_table("reads", schema=None) as batch_op:
        batch_op.drop_index("reads_of_backfill")
        batch_op.drop_column("backfill")
    op.drop_table("backfills")
