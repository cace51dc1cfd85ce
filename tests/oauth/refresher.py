"""A process that needs a token: `python -m tests.oauth.refresher STORE KLAVIYO KEY TASKS`.

It prints `ready`, waits for a line, then prints the access token of each task.
"""

from __future__ import annotations

import asyncio
import sys

from pydantic import SecretStr

from connector.net.stored_token import StoredToken
from connector.runtime import log
from connector.runtime.clock import SystemClock
from connector.store.sql import open_store
from tests.oauth.tokens import token_on


async def main(store_url: str, klaviyo: str, key: str, tasks: int) -> None:
    log.configure(level="critical")
    store = await open_store(store_url)
    token: StoredToken = token_on(store, klaviyo, [SecretStr(key)], SystemClock())
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for found in await asyncio.gather(*(token() for _ in range(tasks))):
        print(found["Authorization"], flush=True)
    await token.aclose()
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
