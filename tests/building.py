"""Builds a connection whose Klaviyo account has been named, and puts its links into use, as the
daemon does in two steps."""

from __future__ import annotations

from connector.app.wiring import ConnectionBuilder
from connector.config import Connection
from connector.service import ConnectionRuntime


async def build_confirmed(
    builder: ConnectionBuilder, connection: Connection, known_accounts: dict[str, str]
) -> ConnectionRuntime:
    """`known_accounts` are those that the builder was made with."""
    unconfirmed = await builder.build(connection)
    account = builder.accounts[connection.name]
    known_accounts[account.credential] = await account.read()
    await unconfirmed.exit_stack.aclose()
    runtime = await builder.build(connection)
    for link in runtime.link:
        await link(runtime.lease.fence)
    return runtime
