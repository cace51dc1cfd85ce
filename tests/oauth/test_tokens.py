"""Tokens at rest: one refresh however many need it, and what a lost answer, a kill, a revoked
grant and a lost key lead to."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from connector.domain.errors import Blocked, Problem, RetryLater, StoreError
from connector.domain.oauth import KLAVIYO_OAUTH, GrantInfo
from connector.net.stored_token import CLAIM_TTL, StoredToken
from connector.net.token_record import MAX_PER_MINUTE
from connector.runtime.clock import SystemClock
from connector.runtime.encryption import Cipher
from connector.sandbox import KlaviyoSandbox, serve
from connector.store.sql import SqlStore, open_store
from connector.testing.fakes.clock import FakeClock
from tests.oauth.conftest import KEY, OTHER_KEY
from tests.oauth.tokens import connect, token_on
from tests.paths import ROOT
from tests.waiting import async_until

SECRET, OTHER = SecretStr(KEY), SecretStr(OTHER_KEY)


class Bench:
    """A store, Klaviyo's authorization server, and a clock that a test may move."""

    def __init__(self, store: SqlStore, klaviyo: KlaviyoSandbox, url: str) -> None:
        self.store, self.klaviyo, self.url = store, klaviyo, url
        self.clock = FakeClock()
        self._tokens: list[StoredToken] = []

    def token(self, *keys: SecretStr, clock: FakeClock | None = None) -> StoredToken:
        """A credential, as of another process each time."""
        made = token_on(self.store, self.url, keys or (SECRET,), clock or self.clock)
        self._tokens.append(made)
        return made

    async def connect(self, *, lifetime: float = 0.0) -> None:
        await connect(self.store, self.klaviyo, SECRET, self.clock, lifetime=lifetime)

    async def info(self) -> GrantInfo:
        row = await self.store.secrets.get("acme", KLAVIYO_OAUTH)
        assert row is not None
        return GrantInfo.load(row.info)

    async def aclose(self) -> None:
        for token in self._tokens:
            await token.aclose()


@pytest.fixture
async def bench(tmp_path: Path, silenced_logs: None) -> AsyncIterator[Bench]:
    klaviyo = KlaviyoSandbox(limits=False)
    servers = await serve({"klaviyo": (klaviyo.app, 0)})
    store = await open_store(f"sqlite:///{tmp_path}/s.db")
    made = Bench(store, klaviyo, servers.url("klaviyo"))
    yield made
    await made.aclose()
    await store.aclose()
    await servers.aclose()


async def access_token(token: StoredToken) -> str:
    return (await token())["Authorization"].removeprefix("Bearer ")


# ── one refresh ──────────────────────────────────────────────────────────────────────────────────


async def test_a_token_is_used_until_shortly_before_it_expires(bench: Bench) -> None:
    await bench.connect(lifetime=3600)
    token = bench.token()
    assert await access_token(token) == "access-0"
    bench.clock.move(3539)
    assert await access_token(token) == "access-0"
    bench.clock.move(2)
    assert await access_token(token) != "access-0"
    assert bench.klaviyo.oauth.refreshes == 1


async def test_twenty_tasks_refresh_once(bench: Bench) -> None:
    await bench.connect()
    token = bench.token()
    assert len({*await asyncio.gather(*(access_token(token) for _ in range(20)))}) == 1
    assert bench.klaviyo.oauth.refreshes == 1


async def test_two_processes_with_twenty_tasks_refresh_once(bench: Bench) -> None:
    await connect(bench.store, bench.klaviyo, SECRET, SystemClock())
    # Long enough for the other process to need the token as well.
    bench.klaviyo.faults.add("oauth/token", "stall", seconds=1.0, applied=True)
    url = str(bench.store.database.engine.url)
    arguments = ["-m", "tests.oauth.refresher", url, bench.url, KEY, "10"]
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, *arguments, cwd=ROOT, stdin=PIPE, stdout=PIPE
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout
        assert await process.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    tokens = [line for out, _ in outputs for line in out.splitlines()]
    assert len(tokens) == 20
    assert len(set(tokens)) == 1
    assert bench.klaviyo.oauth.refreshes == 1


async def test_the_new_pair_is_stored_before_it_is_used(bench: Bench) -> None:
    await bench.connect()
    token, put, failures = bench.token(), bench.store.secrets.put, [0]

    async def failing(*args: object, **kwargs: object) -> int | None:
        failures[0] += 1
        if failures[0] <= 2:
            raise StoreError(Problem.STORE_UNAVAILABLE)
        return await put(*args, **kwargs)  # type: ignore[arg-type]

    bench.store.secrets.put = failing  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(RetryLater) as caught:
            await token()
        assert caught.value.problem is Problem.STORE_UNAVAILABLE
    used = await access_token(token)
    assert bench.klaviyo.oauth.refreshes == 1, "the pair that was received is stored later"
    assert await access_token(bench.token()) == used


async def test_a_token_that_is_closed_while_the_store_is_locked_loses_no_refresh_token(
    bench: Bench,
) -> None:
    """A reload closes the token of a connection that it builds again."""
    await bench.connect()
    token, put, failures = bench.token(), bench.store.secrets.put, [0]

    async def failing(*args: object, **kwargs: object) -> int | None:
        failures[0] += 1
        if failures[0] <= 3:
            raise StoreError(Problem.STORE_UNAVAILABLE)
        return await put(*args, **kwargs)  # type: ignore[arg-type]

    bench.store.secrets.put = failing  # type: ignore[method-assign]
    with pytest.raises(RetryLater):
        await token()
    closing = asyncio.create_task(token.aclose())
    await bench.clock.advance(1)
    await closing
    stored = await bench.store.secrets.get("acme", KLAVIYO_OAUTH)
    assert stored
    assert Cipher([SECRET]).open(stored)[1] != "refresh-0", "the old one is not valid any more"


async def test_a_caller_that_is_cancelled_loses_no_refresh_token(bench: Bench) -> None:
    await bench.connect()
    bench.klaviyo.faults.add("oauth/token", "stall", seconds=0.2, applied=True)
    token = bench.token()
    caller = asyncio.create_task(token())
    await asyncio.sleep(0.1)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await token.aclose()
    assert bench.klaviyo.oauth.refreshes == 1
    bench.klaviyo.oauth.refreshes_per_minute = 1
    assert await access_token(bench.token()) != "access-0"


async def test_a_refused_access_token_is_refreshed_once_and_the_store_read_first(
    bench: Bench,
) -> None:
    await bench.connect(lifetime=3600)
    mine, theirs = bench.token(), bench.token()
    old = [await mine(), await theirs()]
    bench.klaviyo.oauth.expire_access()
    assert mine.invalidate(old[0])
    new = await mine()
    assert theirs.invalidate(old[1])
    assert await theirs() == new
    assert bench.klaviyo.oauth.refreshes == 1
    assert not mine.invalidate(new), "at most one refresh in five minutes"


@pytest.mark.parametrize("skew", [-300, 300])
async def test_clocks_that_differ_by_five_minutes_refresh_once(bench: Bench, skew: float) -> None:
    await bench.connect()
    skewed = FakeClock(bench.clock.now())
    skewed.move(skew)
    first = await access_token(bench.token())
    assert await access_token(bench.token(clock=skewed)) == first
    assert bench.klaviyo.oauth.refreshes == 1


async def test_a_minute_has_at_most_ten_refreshes(bench: Bench) -> None:
    bench.klaviyo.oauth.token_lifetime = 0.0
    await bench.connect()
    for _ in range(MAX_PER_MINUTE):
        row = await bench.store.secrets.get("acme", KLAVIYO_OAUTH)
        assert row is not None
        assert await bench.store.secrets.claim(
            row, "c", attempts=[*row.attempts, bench.clock.now()], over=row.claim
        )
    await bench.store.secrets.release("acme", KLAVIYO_OAUTH, "c")
    with pytest.raises(RetryLater) as caught:
        await bench.token()()
    assert 0 < caught.value.after <= 60
    assert bench.klaviyo.oauth.refreshes == 0
    bench.clock.move(61)
    bench.klaviyo.oauth.token_lifetime = 3600.0
    assert await access_token(bench.token())


# ── lost answers and kills ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rotation", ["never", "always"])
async def test_a_lost_answer_is_asked_for_again(bench: Bench, rotation: str) -> None:
    """Klaviyo returned the same refresh token when it was observed. Where it replaces it, the
    answer held the only valid one, and the account must be connected again."""
    bench.klaviyo.oauth.rotation = rotation  # type: ignore[assignment]
    await bench.connect()
    bench.klaviyo.faults.add("oauth/token", "reset_after", count=1)
    token = bench.token()
    with pytest.raises(RetryLater):
        await token()
    with pytest.raises(RetryLater):
        await token()  # not repeated for a few seconds
    bench.clock.move(6)
    if rotation == "never":
        assert await access_token(token) != "access-0"
        return
    with pytest.raises(Blocked) as caught:
        await token()
    assert caught.value.problem is Problem.KLAVIYO_ACCESS_ENDED


async def test_a_process_killed_between_answer_and_store_blocks_no_one_for_long(
    bench: Bench,
) -> None:
    bench.klaviyo.oauth.rotation = "never"
    await bench.connect()
    row = await bench.store.secrets.get("acme", KLAVIYO_OAUTH)
    assert row is not None
    assert await bench.store.secrets.claim(row, "killed", attempts=[], over=None)
    token = bench.token()
    waiting = asyncio.create_task(token())
    await bench.clock.advance(11)
    with pytest.raises(RetryLater):
        await waiting
    assert bench.klaviyo.oauth.refreshes == 0
    bench.clock.move(CLAIM_TTL)
    assert await access_token(token) != "access-0"


@pytest.mark.parametrize("rotation", ["never", "always"])
async def test_a_real_process_is_killed_while_the_answer_is_on_its_way(
    bench: Bench, rotation: str
) -> None:
    """The server has refreshed; the process ends before it can store the answer."""
    bench.klaviyo.oauth.rotation = rotation  # type: ignore[assignment]
    await bench.connect()
    bench.klaviyo.faults.add("oauth/token", "stall", seconds=30.0, applied=True, count=1)
    url = str(bench.store.database.engine.url)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.oauth.refresher", url, bench.url, KEY, "1"),
        cwd=ROOT,
        stdin=PIPE,
        stdout=PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert await process.stdout.readline() == b"ready\n"
    process.stdin.write(b"go\n")
    await async_until("the server has refreshed", lambda: bench.klaviyo.oauth.refreshes == 1)
    process.kill()
    await process.communicate()
    token = bench.token()
    waiting = asyncio.create_task(token())
    await bench.clock.advance(11)
    with pytest.raises(RetryLater):
        await waiting
    bench.clock.move(CLAIM_TTL)
    if rotation == "never":
        assert await access_token(token) != "access-0"
        return
    with pytest.raises(Blocked) as caught:
        await token()
    assert caught.value.problem is Problem.KLAVIYO_ACCESS_ENDED


# ── ended ────────────────────────────────────────────────────────────────────────────────────────


async def test_invalid_grant_ends_the_access_and_is_not_repeated(bench: Bench) -> None:
    await bench.connect()
    bench.klaviyo.oauth.uninstall()
    for token in (bench.token(), bench.token()):
        with pytest.raises(Blocked) as caught:
            await token()
        assert caught.value.scope == "account"
        assert caught.value.problem is Problem.KLAVIYO_ACCESS_ENDED
        assert caught.value.detail == "the stored token is not valid any more"
    state = bench.klaviyo.state()["requests"]
    assert isinstance(state, dict)
    assert state["POST /oauth/token"] == {"400": 1}
    assert (await bench.info()).ended_at is not None


async def test_after_invalid_grant_the_store_is_read_again(bench: Bench) -> None:
    """A person connected the account again while the old refresh token was refused."""
    await bench.connect()
    bench.klaviyo.oauth.uninstall()
    bench.klaviyo.faults.add("oauth/token", "stall", seconds=0.2, applied=True, count=1)
    waiting = asyncio.create_task(access_token(bench.token()))
    await async_until("the refresh is sent", lambda: len(bench.klaviyo.faults) == 0)
    await bench.connect(lifetime=3600)
    assert await waiting == "access-0"
    assert (await bench.info()).ended_at is None


async def test_a_wrong_app_secret_blocks_and_does_not_end_the_access(bench: Bench) -> None:
    await bench.connect()
    bench.klaviyo.oauth.client_secret = "another"
    with pytest.raises(Blocked) as caught:
        await bench.token()()
    assert "invalid_client" in caught.value.detail
    assert (await bench.info()).ended_at is None


async def test_reduced_scopes_are_known_after_the_refresh(bench: Bench) -> None:
    await bench.connect()
    assert bench.klaviyo.oauth.install
    bench.klaviyo.oauth.install.scopes = ("events:write", "lists:read")
    bench.klaviyo.oauth.granted = ["events:write"]
    await bench.token()()
    assert (await bench.info()).scopes == ("events:write",)


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_key_reads_what_the_old_one_stored(bench: Bench) -> None:
    await bench.connect(lifetime=3600)
    assert await access_token(bench.token(OTHER, SECRET)) == "access-0"


@pytest.mark.parametrize("keys", [(OTHER,), ()])
async def test_a_lost_key_is_named_and_no_token_is_lost(
    bench: Bench, keys: tuple[SecretStr, ...]
) -> None:
    await bench.connect(lifetime=3600)
    token = token_on(bench.store, bench.url, keys, bench.clock)
    with pytest.raises(Blocked) as caught:
        await token()
    await token.aclose()
    assert caught.value.problem is Problem.ENCRYPTION_KEY
    assert "encryption_key" in caught.value.detail
    assert await access_token(bench.token()) == "access-0"
    assert bench.klaviyo.oauth.refreshes == 0


async def test_no_error_and_no_representation_contains_a_token(bench: Bench) -> None:
    await bench.connect()
    bench.klaviyo.oauth.uninstall()
    token = bench.token()
    with pytest.raises(Blocked) as caught:
        await token()
    shown = f"{token!r} {caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert "refresh-0" not in shown
    assert "sandbox-app-secret" not in shown
