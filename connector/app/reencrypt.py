"""Encrypts stored secrets again after `[security] encryption_key` got a new first key."""

from __future__ import annotations

from connector.ports import Clock, Store
from connector.runtime import log
from connector.runtime.encryption import Cipher, UnreadableSecret


async def reencrypt(store: Store, cipher: Cipher, clock: Clock) -> int:
    """How many secrets were encrypted with the first key. Those that no key opens stay as they are:
    whoever needs one reports it. Raises StoreError."""
    changed = 0
    for secret in await store.secrets.all() if cipher else ():
        if cipher.is_current(secret.sealed) or secret.claim is not None:
            continue
        try:
            sealed = cipher.seal(cipher.open(secret))
        except UnreadableSecret as error:
            log.get("app").error(
                "secret_unreadable",
                problem=error.problem.value,
                owner=secret.owner,
                secret_name=secret.name,
            )
            continue
        stored = await store.secrets.put(
            secret.owner,
            secret.name,
            sealed,
            secret.info,
            now=clock.now(),
            version=secret.version,
        )
        changed += stored is not None
    for setting in await store.settings.all() if cipher else ():
        if setting.sealed is not None and not cipher.is_current(setting.sealed):
            # Readable: the configuration in effect was made of it.
            await store.settings.reseal(setting, cipher.seal(cipher.open(setting.sealed)))
            changed += 1
    if changed:
        log.get("app").info("secrets_reencrypted", count=changed)
    return changed
