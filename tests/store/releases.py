"""Versions that have more migrations than this one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from connector.store import schema

_HEAD = """\
import sqlalchemy as sa
from alembic import op

from connector.store.migrations.indexes import create_index

revision = {revision!r}
down_revision = {before!r}
branch_labels = None
depends_on = None


def upgrade() -> None:
"""
COLUMN_AND_TABLE = """\
    op.add_column("outbox", sa.Column("note", sa.Text(), nullable=True))
    op.create_table("notes", sa.Column("id", sa.BigInteger(), nullable=False),
                    sa.PrimaryKeyConstraint("id"))
"""
INDEX = """\
    create_index("outbox_noted", "outbox", ["note"], sqlite_where=sa.text("note IS NOT NULL"),
                 postgresql_where=sa.text("note IS NOT NULL"))
"""
DROPPED = '    op.drop_index("requests_by_time", "requests")\n'
NEXT = {"0002_since_0001": COLUMN_AND_TABLE, "0003_since_0001": INDEX}
"""Revision → what it does, of a release with which this version works."""
OVERHAUL = {**NEXT, "0004_since_0004": DROPPED}
"""Of one with which it does not."""


def add_migrations(migrations: Path, added: Mapping[str, str]) -> str:
    """Write these after the newest one of the folder; the newest revision then."""
    before = schema.HEAD
    for revision, body in added.items():
        text = _HEAD.format(revision=revision, before=before) + body
        (migrations / "versions" / f"{revision}.py").write_text(text)
        before = revision
    return before


@contextmanager
def release(folder: Path, added: Mapping[str, str]) -> Iterator[None]:
    """This process is of a version that has these migrations too. `folder` is for its files."""
    migrations = folder / f"migrations to {[*added][-1]}"
    shutil.copytree(schema.MIGRATIONS, migrations, dirs_exist_ok=True)
    head = add_migrations(migrations, added)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", migrations)
        patch.setattr(schema, "HEAD", head)
        yield
