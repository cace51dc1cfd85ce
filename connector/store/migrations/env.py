"""Alembic's entry: runs on the connection that connector.store.schema hands over."""

from __future__ import annotations

from alembic import context

from connector.store.counters import install
from connector.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
    install(context.get_bind())
