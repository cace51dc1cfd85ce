"""Stored tokens of a connection `acme` at a sandbox."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import SecretStr

from connector.domain.oauth import KLAVIYO_OAUTH, Grant, GrantInfo
from connector.klaviyo.oauth import AppSettings, stored_token
from connector.net.http import Http
from connector.net.stored_token import StoredToken
from connector.net.token_record import TokenRecord
from connector.ports import Clock, Store
from connector.runtime.encryption import Cipher
from connector.sandbox import KlaviyoSandbox
from connector.sandbox.klaviyo.oauth import Install


def token_on(store: Store, klaviyo: str, keys: Sequence[SecretStr], clock: Clock) -> StoredToken:
    """The credential of `acme`, as the daemon builds it."""
    app = AppSettings(
        client_id="sandbox-app",
        client_secret=SecretStr("sandbox-app-secret"),
        authorize_url=f"{klaviyo}/oauth/authorize",
        token_url=f"{klaviyo}/oauth/token",
        revoke_url=f"{klaviyo}/oauth/revoke",
        base_url=klaviyo,
        revision="2026-10-15",
    )

    def transport(url: str) -> Http:
        return Http(url, vendor="klaviyo", clock=clock, credential=dict)

    return stored_token(app, transport, store.secrets, Cipher(keys), "acme", clock)


async def connect(
    store: Store, klaviyo: KlaviyoSandbox, key: SecretStr, clock: Clock, *, lifetime: float = 0.0
) -> TokenRecord:
    """As after `connector connect`, with an access token that expires after `lifetime` s."""
    klaviyo.oauth.install = Install(("events:write",), "refresh-0", {"access-0": 2.0**40})
    record = TokenRecord(store.secrets, Cipher([key]), "acme", KLAVIYO_OAUTH, clock)
    await record.save(Grant("access-0", "refresh-0", lifetime), GrantInfo(account="SANDBX"))
    return record
