"""Signals to the real process: guarantee 11, and reload by SIGHUP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.net.http import get
from connector.pipeline.lease import holder_name, is_dead
from connector.sandbox import Traffic
from tests.processes import run
from tests.waiting import until

from .conftest import ENVIRONMENT, Daemon, Platforms


def states(daemon: Daemon) -> dict[int, int]:
    with closing(sqlite3.connect(daemon.folder / "state" / "crash.db")) as store:
        return dict(store.execute("SELECT state, count(*) FROM outbox GROUP BY state").fetchall())


def ambiguous(daemon: Daemon) -> int:
    """Events whose delivery was cut off."""
    with closing(sqlite3.connect(daemon.folder / "state" / "crash.db")) as store:
        [(count,)] = store.execute("SELECT count(*) FROM outbox WHERE delivery_mode = 1")
    return int(count)


def post(daemon: Daemon, traffic: Traffic) -> str:
    headers, body = traffic.make_event()
    assert daemon.post(headers, body) == 202
    return f"jericommerce:{json.loads(body)['id']}"


def test_sigterm_finishes_what_is_in_flight_and_exits_0(
    daemon: Daemon, platforms: Platforms, traffic: Traffic
) -> None:
    platforms.klaviyo.faults.add("events", "stall", applied=True, seconds=1.5, count=1)
    daemon.start()
    daemon.wait_until_ready()
    id = post(daemon, traffic)
    until("Klaviyo has received it", lambda: platforms.klaviyo.recorded(id) == 1)
    assert states(daemon) == {1: 1}
    daemon.send(signal.SIGTERM)
    statuses = [daemon.get("/readyz")[0]]
    assert daemon.process
    while daemon.process.poll() is None:
        statuses.append(daemon.get("/readyz")[0])
    assert daemon.end() == 0
    # Once it is not ready, it is never ready again.
    first = next(i for i, status in enumerate(statuses) if status != 200)
    assert 200 not in statuses[first:]
    assert set(statuses) <= {200, 503, 0}
    assert states(daemon) == {2: 1}
    assert platforms.klaviyo.unique_ids() == {id: 1}
    assert platforms.klaviyo.state()["duplicates"] == 0


def test_sigterm_ends_open_streams_at_once_and_whole(daemon: Daemon, platforms: Platforms) -> None:
    # Not within a grace period, of which there is more than the test waits for.
    daemon.config.write_text(daemon.config.read_text().replace('"10s"', '"10m"'))
    daemon.start()
    daemon.wait_until_ready()
    with ExitStack() as stack:
        streams = [open_stream(daemon, stack) for _ in range(200)]
        for stream in streams:
            assert stream.readline() == b"retry: 2000\n"
        daemon.send(signal.SIGTERM)
        # A stream that is cut off raises IncompleteRead.
        assert all(stream.read().endswith(b"\n\n") for stream in streams)
        assert daemon.end() == 0


def open_stream(daemon: Daemon, stack: ExitStack) -> http.client.HTTPResponse:
    caller = http.client.HTTPConnection("127.0.0.1", daemon.port, 30)
    stack.enter_context(closing(caller))
    caller.request("GET", "/api/v1/events")
    answer = caller.getresponse()
    assert answer.status == 200
    return answer


@contextmanager
def half_a_request(daemon: Daemon) -> Iterator[socket.socket]:
    """A call whose body never ends."""
    with socket.create_connection(("127.0.0.1", daemon.port), 5) as caller:
        caller.sendall(b"POST /webhooks/demo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        yield caller


def test_an_unfinished_call_costs_the_lanes_nothing_of_their_grace(
    daemon: Daemon, platforms: Platforms, traffic: Traffic
) -> None:
    text = daemon.config.read_text().replace('"10s"', '"4s"')
    daemon.config.write_text(text.replace("bulk_threshold = 5", "bulk_threshold = 1000"))
    platforms.klaviyo.faults.add("events", "stall", applied=True, seconds=1.5)
    daemon.start()
    daemon.wait_until_ready()
    ids = [post(daemon, traffic) for _ in range(60)]
    recorded = platforms.klaviyo.recorded
    until("Klaviyo has received some", lambda: any(recorded(id) for id in ids))
    with half_a_request(daemon):
        daemon.send(signal.SIGTERM)
        assert daemon.end() == 0
    assert ambiguous(daemon) == 0
    assert set(states(daemon)) == {0, 2}


def test_after_sigterm_webhooks_are_taken_and_not_sent_while_lanes_drain(
    daemon: Daemon, platforms: Platforms, traffic: Traffic
) -> None:
    platforms.klaviyo.faults.add("events", "stall", applied=True, seconds=4.0, count=1)
    daemon.start()
    daemon.wait_until_ready()
    in_flight = post(daemon, traffic)
    until("Klaviyo has received it", lambda: platforms.klaviyo.recorded(in_flight) == 1)
    daemon.send(signal.SIGTERM)
    until("readiness is 503", lambda: daemon.get("/readyz")[0] == 503)
    late = [post(daemon, traffic) for _ in range(5)]
    assert daemon.get("/livez")[0] == 200
    assert daemon.end() == 0
    assert states(daemon) == {0: 5, 2: 1}
    recorded = platforms.klaviyo.recorded
    assert not any(recorded(id) for id in late)
    daemon.start()
    until("they are delivered", lambda: all(recorded(id) == 1 for id in late))


def test_the_port_stays_open_for_the_drain_delay(daemon: Daemon, traffic: Traffic) -> None:
    text = daemon.config.read_text()
    delayed = text.replace(
        'shutdown_timeout = "10s"', 'shutdown_timeout = "10s"\ndrain_delay = "3s"'
    )
    daemon.config.write_text(delayed)
    daemon.start()
    daemon.wait_until_ready()
    daemon.send(signal.SIGTERM)
    until("readiness is 503", lambda: daemon.get("/readyz")[0] == 503)
    post(daemon, traffic)
    assert daemon.process
    assert daemon.process.poll() is None
    assert daemon.end() == 0
    assert sum(states(daemon).values()) == 1


async def test_servers_have_what_the_lanes_leave_of_one_grace_period(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(read_config(daemon.config))
    await app.start(serve=False)
    left: list[float] = []

    class StubServer:
        async def stop(self, grace: float) -> None:
            left.append(grace)

    async def stop_connections(timeout: float, resource: str | None = None) -> None:
        left.append(timeout)
        await finish(timeout, resource)
        moved[0] = 7.0

    moved, now, finish = [0.0], app.clock.monotonic, app.connections.stop
    monkeypatch.setattr(app.clock, "monotonic", lambda: now() + moved[0], raising=False)
    monkeypatch.setattr(app.listeners, "servers", [StubServer()])
    monkeypatch.setattr(app.connections, "stop", stop_connections)
    await app.stop()
    lanes, servers, _ = left
    assert 9.0 < lanes <= 10.0
    assert 2.0 < servers <= 3.0


def test_sigterm_cancels_work_that_outlasts_the_timeout_and_loses_nothing(
    daemon: Daemon, platforms: Platforms, traffic: Traffic
) -> None:
    daemon.config.write_text(daemon.config.read_text().replace('"10s"', '"500ms"'))
    platforms.klaviyo.faults.add("events", "stall", applied=True, seconds=25.0, count=1)
    daemon.start()
    daemon.wait_until_ready()
    id = post(daemon, traffic)
    until("Klaviyo has received it", lambda: platforms.klaviyo.recorded(id) == 1)
    daemon.send(signal.SIGTERM)
    assert daemon.end(8.0) == 0
    assert states(daemon) == {0: 1}
    daemon.start()
    daemon.wait_until_ready()
    until("it is settled", lambda: states(daemon) == {2: 1})
    assert platforms.klaviyo.unique_ids() == {id: 1}
    assert platforms.klaviyo.state()["violations"] == {}


async def test_readyz_turns_503_before_the_servers_close(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(read_config(daemon.config))
    await app.start()
    [server] = app.listeners.servers
    close, statuses = server.stop, []

    async def stop(grace: float) -> None:
        statuses.append((await get(f"http://127.0.0.1:{app.port}/readyz"))[0])
        await close(grace)

    monkeypatch.setattr(server, "stop", stop)
    await app.stop()
    assert statuses == [503]


def test_sighup_applies_an_edited_file_and_a_faulty_one_changes_nothing(
    daemon: Daemon, platforms: Platforms, traffic: Traffic
) -> None:
    daemon.start()
    daemon.wait_until_ready()
    before = daemon.config.read_text()
    headers, body = traffic.make_event()
    assert daemon.post(headers, body, "second") == 404

    second = before[before.index("[[connections]]") :].replace(
        '"demo"', '"second"\nmode = "shadow"', 1
    )
    daemon.config.write_text(f"{before}\n{second}")
    daemon.send(signal.SIGHUP)
    until("the second connection accepts webhooks", lambda: _accepts(daemon, traffic, "second"))
    post(daemon, traffic)

    daemon.config.write_text(before + "\n[delivery]\nbulk_threshold = 'many'\n")
    daemon.send(signal.SIGHUP)
    until("the faulty file is rejected", lambda: "C30" in daemon.get("/healthz")[1])
    assert "connector_config_last_reload_successful 0.0" in daemon.get("/metrics")[1]
    assert daemon.ready()
    assert _accepts(daemon, traffic, "second")
    id = post(daemon, traffic)
    until("it is delivered", lambda: platforms.klaviyo.recorded(id) == 1)

    daemon.config.write_text(before)
    daemon.send(signal.SIGHUP)
    until("the second connection is gone", lambda: daemon.post(headers, body, "second") == 404)
    assert "C30" not in daemon.get("/healthz")[1]
    daemon.send(signal.SIGTERM)
    assert daemon.end() == 0


def _accepts(daemon: Daemon, traffic: Traffic, connection: str) -> bool:
    headers, body = traffic.make_event()
    return daemon.post(headers, body, connection) == 202


# ── dead lease holders ───────────────────────────────────────────────────────────────────────────

OtherProcess: TypeAlias = tuple[subprocess.Popen[str], str]
_NAME = (
    "from connector.pipeline.lease import holder_name; print(holder_name(), flush=True); input()"
)


@pytest.fixture
def other_process(root: Path) -> Iterator[OtherProcess]:
    """Another live process, and its name as a lease holder."""
    process = subprocess.Popen(
        [sys.executable, "-c", _NAME],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    yield process, process.stdout.readline().strip()
    process.kill()
    process.communicate()


def test_a_live_holder_is_never_considered_dead(
    other_process: tuple[subprocess.Popen[str], str],
) -> None:
    process, name = other_process
    assert str(process.pid) in name
    assert not is_dead(name)
    assert not is_dead(holder_name())
    os.kill(process.pid, signal.SIGSTOP)
    assert not is_dead(name)


def test_a_dead_holder_on_this_host_is_detected(other_process: OtherProcess) -> None:
    process, name = other_process
    process.kill()
    process.wait()
    assert is_dead(name)


def test_a_new_process_with_a_reused_pid_is_not_the_dead_holder() -> None:
    host, pid, proof, nonce = holder_name().rsplit("/", 3)
    machine, _, started = proof.partition(".")
    assert is_dead(f"{host}/{pid}/{machine}.{int(started) - 1}/{nonce}")


@pytest.mark.parametrize("part", range(3))
def test_a_holder_that_cannot_be_checked_counts_as_alive(
    part: int, other_process: OtherProcess
) -> None:
    process, name = other_process
    process.kill()
    process.wait()
    parts = name.rsplit("/", 3)
    elsewhere = [
        ["other-host", *parts[1:]],
        [*parts[:2], "-", parts[3]],
        [*parts[:2], "000000000000." + parts[2].partition(".")[2], parts[3]],
    ]
    assert not is_dead("/".join(elsewhere[part]))
    assert not is_dead("")
    assert not is_dead("a-person/with/a/name")


def test_a_second_daemon_on_one_store_waits_for_the_live_one(
    daemon: Daemon, platforms: Platforms
) -> None:
    daemon.start()
    daemon.wait_until_ready()
    code = (
        "import asyncio\n"
        "from connector.app.configuration import read_config\n"
        "from connector.app.daemon import App\n"
        "from connector.domain.errors import StoreError\n"
        "async def main():\n"
        "    app = App(read_config())\n"
        "    try:\n"
        "        await app.start(lease_timeout=1.0, serve=False)\n"
        "    except StoreError as error:\n"
        "        print(error.problem.value, error.detail)\n"
        "asyncio.run(main())\n"
    )
    assert daemon.process
    second = run(
        [],
        cwd=daemon.folder,
        env=ENVIRONMENT | {"CONNECTOR_CONFIG": str(daemon.config)},
        main=("-c", code),
    )
    *logged, last = second.stdout.splitlines()
    assert last.startswith("S40")
    assert f"process {daemon.process.pid} on " in last
    assert any("lease_awaited" in line for line in logged)
    assert daemon.ready()
