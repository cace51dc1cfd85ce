"""Indexes on tables that are in use while they are created."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alembic import op
from sqlalchemy import Connection, text


def create_index(name: str, table: str, columns: Sequence[str], **options: Any) -> None:
    """Create an index on a table that earlier migrations have made. Beside processes that use the
    store it takes as long as the table and the transactions of others need, and no one waits for
    it: it must be the only operation of its migration, since a part of it is not in the migration's
    transaction. `options` as those of `op.create_index`."""
    context = op.get_context()
    if not context.opts.get("beside_others"):
        op.create_index(name, table, columns, **options)
        return
    if context.as_sql:
        op.create_index(name, table, columns, postgresql_concurrently=True, **options)
        return
    c = op.get_bind()
    if _exists(c, name, table):
        return
    c.commit()
    c.execution_options(isolation_level="AUTOCOMMIT")
    try:
        op.create_index(name, table, columns, postgresql_concurrently=True, **options)
    finally:
        c.rollback()
        c.execution_options(isolation_level=c.default_isolation_level)


def _exists(c: Connection, name: str, table: str) -> bool:
    """Whether another process has created the index. What is left of one that was killed is
    dropped."""
    # Whoever creates an index concurrently has this lock all the time.
    c.exec_driver_sql(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")
    query = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    valid: bool | None = c.scalar(query, {"name": name})
    if valid is False:
        c.exec_driver_sql(f"DROP INDEX {name}")
    return bool(valid)
