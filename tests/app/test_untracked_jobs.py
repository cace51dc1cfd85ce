"""People that an import job holds in flight when its lane stops running: what is written about them
by other lanes of the same Klaviyo account follows once the job has ended (guarantee 1)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from sqlalchemy import func, select

from connector.domain.records import State
from connector.pipeline import import_jobs
from connector.sandbox import WllSandbox
from connector.sandbox.wll.users import User
from connector.store.sql import SqlStore
from connector.store.tables import in_state, profiles
from tests.paths import MAPPINGS
from tests.platforms.plugins.daemon import Running, running
from tests.platforms.wll.test_daemon import CONFIG

_LINK = CONFIG[CONFIG.index("[[connections.audiences]]") : CONFIG.index("[connections.actions]")]
_HEAD = CONFIG[: CONFIG.index("[[connections]]")]
_CONNECTION = CONFIG.removeprefix(_HEAD).partition("[[connections.audiences]]")[0]
_HOURS = 36_000.0


def connection(name: str, *modules: str, more: str = "", link: str = "") -> str:
    keys = f'name = "{name}"\nmodules = {orjson.dumps(modules).decode()}\n{more}'
    return _CONNECTION.replace('name = "acme"', keys) + link


@asynccontextmanager
async def with_a_member(
    folder: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> AsyncIterator[tuple[Running, WllSandbox]]:
    """A member of the audience and another user, and a Klaviyo whose import jobs end when the test
    ends them."""
    wll = WllSandbox(people=2)
    member, _ = wll.users
    member.earned = 1600
    monkeypatch.setattr(import_jobs, "MAX_POLL_SECONDS", 0.2)
    wll.refresh()
    shutil.copytree(MAPPINGS, folder / "mappings")
    platforms = {"wll": wll.app}
    async with running(folder, config, platforms, {}, monkeypatch, job_delay=_HOURS) as daemon:
        yield daemon, wll


async def reload(daemon: Running, folder: Path, config: str) -> None:
    (folder / "connector.toml").write_text(config)
    assert (await daemon.app.reload())["reloaded"]


async def job_starts(daemon: Running) -> str:
    [job] = await daemon.until(daemon.klaviyo.jobs.open)
    return str(job.id)


async def post_event(daemon: Running, name: str, user: User) -> None:
    event = {
        "type": "CASHBACK_REGISTERED",
        "reportedAt": "2026-11-01T10:00:00.000Z",
        "subject": user.auth,
        "payload": {"amount": 5},
    }
    answer = await daemon.post(name, orjson.dumps(event), {}, "wll_webhook_secret")
    assert answer[0] == 202, answer


async def until_profiles_wait(daemon: Running, count: int) -> None:
    store = daemon.app.store
    assert isinstance(store, SqlStore)
    query = select(func.count()).select_from(profiles).where(in_state(State.READY, profiles))
    for _ in range(1_000):
        if await store.database.read(lambda c: c.execute(query).scalar_one()) == count:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the profiles were not observed")


_WITHOUT_LANE = {
    "unlinked": connection("acme", "audiences"),
    "switched off": connection("acme", "actions", link=_LINK),
    "disabled": connection("acme", "audiences", more="enabled = false\n", link=_LINK),
    "removed": "",
}


@pytest.mark.parametrize("acme", _WITHOUT_LANE.values(), ids=_WITHOUT_LANE)
async def test_a_profile_follows_the_join_of_a_lane_that_no_longer_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silenced_logs: None, acme: str
) -> None:
    beta = connection("beta", "events", "profiles")
    config = _HEAD + connection("acme", "audiences", link=_LINK) + beta
    async with with_a_member(tmp_path, monkeypatch, config) as (daemon, wll):
        member, _ = wll.users
        job = await job_starts(daemon)
        await reload(daemon, tmp_path, _HEAD + acme + beta)
        await post_event(daemon, "beta", member)
        daemon.klaviyo.jobs.run(job)
        await daemon.until(
            lambda: daemon.properties(member.email).get("wll_balance") == member.points, 20
        )
        assert daemon.klaviyo.overlapping_writes == 0


async def test_a_join_follows_the_profile_of_a_lane_that_no_longer_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silenced_logs: None
) -> None:
    head = _HEAD.replace("[delivery]\n", "[delivery]\nbulk_threshold = 1\n")
    config = head + connection("acme", "events", "profiles")
    async with with_a_member(tmp_path, monkeypatch, config) as (daemon, wll):
        writes = daemon.app.runtimes["acme"].writes
        assert writes
        await writes.pause()
        for user in wll.users:
            await post_event(daemon, "acme", user)
        await until_profiles_wait(daemon, 2)
        await writes.resume()
        job = await job_starts(daemon)
        await reload(daemon, tmp_path, head + connection("acme", "audiences", link=_LINK))
        daemon.klaviyo.jobs.run(job)
        joining = await daemon.until(daemon.klaviyo.jobs.open, 20)
        daemon.klaviyo.jobs.run(joining[0].id)
        assert daemon.klaviyo.list_members("L00000") == [next(iter(wll.users)).email]
        assert daemon.klaviyo.overlapping_writes == 0
