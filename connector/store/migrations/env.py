"""Alembic's entry: runs on the connection that connector.store.schema hands over."""

from __future__ import annotations

from alembic import context

from connector.store.counters import install
from connector.store.tables import metadata

beside_others = context.config.attributes["beside_others"]
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    beside_others=beside_others,
)
with context.begin_transaction():
    context.run_migrations()
    # It locks every table that is counted and reads all of it.
    if not beside_others:
        install(context.get_bind())
