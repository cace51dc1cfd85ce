"""Contract of connector.ports.Secrets and connector.ports.Authorizations."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from connector.domain.lanes import Millis
from connector.ports import Authorization, Store

_NOW = Millis(1_790_000_000_000)
_DAY = 86_400_000


class SecretsContract:
    """Subclass it beside a fixture `store` that yields an empty store."""

    async def test_a_secret_is_replaced_at_its_version_only(self, store: Store) -> None:
        secrets = store.secrets
        assert await secrets.get("acme", "token") is None
        assert await secrets.put("acme", "token", "one", {"a": 1}, now=_NOW, version=1) is None
        assert await secrets.put("acme", "token", "one", {"a": 1}, now=_NOW, version=0) == 1
        assert await secrets.put("acme", "token", "two", {}, now=_NOW, version=0) is None
        assert await secrets.put("acme", "token", "two", {"a": 2}, now=_NOW, version=1) == 2
        assert await secrets.put("acme", "token", "three", {}, now=_NOW) == 3
        await secrets.put("other", "token", "x", {}, now=_NOW)
        assert [(s.owner, s.sealed) for s in await secrets.all()] == [
            ("acme", "three"),
            ("other", "x"),
        ]
        assert await secrets.delete("acme", "token")
        assert not await secrets.delete("acme", "token")

    async def test_of_many_claims_at_once_one_holds(self, store: Store) -> None:
        await store.secrets.put("acme", "token", "one", {}, now=_NOW)
        row = await store.secrets.get("acme", "token")
        assert row is not None
        claims = [store.secrets.claim(row, f"c{n}", attempts=[_NOW], over=None) for n in range(10)]
        assert sum(await asyncio.gather(*claims)) == 1
        held = await store.secrets.get("acme", "token")
        assert held is not None
        assert held.attempts == (_NOW,)
        assert held.claim is not None
        assert await store.secrets.claim(held, "next", attempts=[], over=held.claim)
        await store.secrets.release("acme", "token", held.claim)
        assert not await store.secrets.claim(held, "late", attempts=[], over=held.claim)
        await store.secrets.release("acme", "token", "next")
        assert await store.secrets.claim(held, "free", attempts=[], over=None)

    async def test_a_new_value_gives_the_claim_back(self, store: Store) -> None:
        await store.secrets.put("acme", "token", "one", {}, now=_NOW)
        row = await store.secrets.get("acme", "token")
        assert row is not None
        assert await store.secrets.claim(row, "mine", attempts=[], over=None)
        assert await store.secrets.put("acme", "token", "two", {}, now=_NOW, version=1) == 2
        row = await store.secrets.get("acme", "token")
        assert row is not None
        assert row.claim is None

    async def test_an_authorization_is_used_once_and_expires(self, store: Store) -> None:
        step = Authorization("d1", "state", "acme", _NOW, Millis(_NOW + 1000), "b", "ana", "sealed")
        await store.authorizations.open(step)
        assert await store.authorizations.get("d1") == step
        assert await store.authorizations.get("d2") is None
        taken = [store.authorizations.take("d1", now=_NOW) for _ in range(10)]
        assert sum(await asyncio.gather(*taken)) == 1
        await store.authorizations.open(replace(step, digest="d2"))
        assert not await store.authorizations.take("d2", now=Millis(_NOW + 1000))

    async def test_the_newest_outcome_is_found_and_old_steps_are_deleted(
        self, store: Store
    ) -> None:
        step = Authorization("d1", "state", "acme", _NOW, Millis(_NOW + 1000))
        await store.authorizations.open(step)
        assert await store.authorizations.latest("acme", since=_NOW) is None
        await store.authorizations.finish("d1", {"error": "denied"})
        found = await store.authorizations.latest("acme", since=_NOW)
        assert found is not None
        assert found.outcome == {"error": "denied"}
        assert await store.authorizations.latest("acme", since=Millis(_NOW + 1)) is None
        later = Millis(_NOW + 2 * _DAY)
        await store.authorizations.open(
            replace(step, digest="d2", created_at=later, expires_at=Millis(later + 1000))
        )
        assert await store.authorizations.get("d1") is None
