"""Alerts fire for a real daemon, with the rules' own expressions in which a minute is a second."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Folder, Platforms
from tests.waiting import until

from .running import Prometheus, post
from .tools import RULES, program

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(300)]

# Retries must be frequent enough for a window of ten seconds.
DELIVERY = 'retry_base = "50ms"\nretry_max = "1s"\n'
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


def sixty_times_faster(rules: str) -> str:
    """The rules with every duration divided by 60."""

    def shorter(found: re.Match[str]) -> str:
        seconds = int(found[2]) * _SECONDS[found[3]] // 60
        return f"{found[1]}{max(1, seconds)}s"

    rules = re.sub(r"((?:for: |\[|:|offset ))(\d+)([mhd])(?=\s|\]|:|\))", shorter, rules)
    rules = re.sub(r"< (600|3600)$", lambda found: f"< {int(found[1]) // 60}", rules, flags=re.M)
    return rules.replace("], 86400)", "], 1440)")


@pytest.fixture
def platforms() -> Iterator[Platforms]:
    """Separate sandboxes for each test: the tests inject faults."""
    running = Platforms()
    yield running
    running.stop()


@pytest.fixture
def watch(prometheus: str, tmp_path: Path) -> Iterator[Callable[[Folder], Prometheus]]:
    """Starts a Prometheus with the fast rules for a daemon."""
    started: list[Prometheus] = []

    def start(daemon: Folder, past: str = "") -> Prometheus:
        rules = sixty_times_faster(RULES.read_text())
        folder = tmp_path / "prometheus"
        if past:
            write_history(folder, past)
        started.append(Prometheus(prometheus, folder, daemon.port, rules))
        started[0].wait()
        return started[0]

    yield start
    for prometheus_process in started:
        prometheus_process.stop()


@pytest.fixture
def daemon(make: Callable[..., Folder]) -> Folder:
    folder = make()
    folder.start()
    return folder


@pytest.fixture
def make(tmp_path: Path, platforms: Platforms) -> Iterator[Callable[..., Folder]]:
    """Creates folders whose daemon is not started; the arguments go into the configuration."""
    folders: list[Folder] = []

    def create(delivery: str = "", min_free: str = "1MB") -> Folder:
        folder = Folder(tmp_path / tmp_path.name, platforms)
        folders.append(folder)
        text = folder.config.read_text().replace('min_free = "1MB"', f'min_free = "{min_free}"')
        folder.config.write_text(text.replace('retry_base = "50ms"\n', DELIVERY + delivery))
        return folder

    yield create
    for folder in folders:
        folder.stop()


def write_history(folder: Path, past: str) -> None:
    """Write samples in the OpenMetrics format for a Prometheus that is not started yet."""
    folder.mkdir(parents=True)
    (folder / "past").write_text(past + "# EOF\n")
    command = (program("promtool"), "tsdb", "create-blocks-from", "openmetrics")
    subprocess.run([*command, folder / "past", folder / "data"], check=True, capture_output=True)


def wait_until_firing(
    name: str, daemon: Folder, watcher: Prometheus, *, traffic: bool = True
) -> None:
    """Post events (with `traffic`) until the alert fires."""

    def is_firing() -> bool:
        if traffic:
            post(daemon)
        return name in watcher.firing()

    until(f"{name} fires", is_firing, 150)


def wait_until_resolved(name: str, daemon: Folder, watcher: Prometheus) -> None:
    def is_resolved() -> bool:
        post(daemon)
        return name not in watcher.firing()

    until(f"{name} is resolved", is_resolved, 90)


def test_one_minute_in_the_rules_is_one_second() -> None:
    assert sixty_times_faster("for: 90m\n") == "for: 90s\n"
    assert sixty_times_faster("[30m:1m]) offset 1d) < 600\n") == "[30s:1s]) offset 1440s) < 10\n"
    assert sixty_times_faster("x[1h])) < 3600\n") == "x[60s])) < 60\n"
    assert sixty_times_faster("predict_linear(x[6h], 86400)") == "predict_linear(x[360s], 1440)"


def test_a_revoked_key_fires_and_a_valid_one_resolves_it(
    daemon: Folder, watch: Callable[[Folder], Prometheus]
) -> None:
    watcher = watch(daemon)
    daemon.platforms.klaviyo.faults.add("*", "status", status=401)
    wait_until_firing("KeyRevoked", daemon, watcher)
    daemon.platforms.klaviyo.faults.clear()
    wait_until_resolved("KeyRevoked", daemon, watcher)


def test_klaviyo_unreachable_fires_only_the_klaviyo_alert(
    daemon: Folder, watch: Callable[[Folder], Prometheus]
) -> None:
    watcher = watch(daemon)
    post(daemon, 3)
    daemon.platforms.klaviyo.faults.add("*", "status", status=503)
    wait_until_firing("KlaviyoDown", daemon, watcher)
    assert "PlatformDown" not in watcher.firing()
    daemon.platforms.klaviyo.faults.clear()
    wait_until_resolved("KlaviyoDown", daemon, watcher)


def test_the_platform_unreachable_fires_only_the_platform_alert(
    daemon: Folder, watch: Callable[[Folder], Prometheus]
) -> None:
    watcher = watch(daemon)
    post(daemon, 3)
    daemon.platforms.jericommerce.faults.add("*", "reset_before")
    wait_until_firing("PlatformDown", daemon, watcher)
    assert "KlaviyoDown" not in watcher.firing()
    daemon.platforms.jericommerce.faults.clear()
    wait_until_resolved("PlatformDown", daemon, watcher)


def test_one_dead_letter_also_fires_the_new_cause_alert(
    daemon: Folder, watch: Callable[[Folder], Prometheus]
) -> None:
    watcher = watch(daemon)
    daemon.platforms.klaviyo.faults.add("events", "status", status=400, count=1)
    post(daemon)
    wait_until_firing("DeadLetters", daemon, watcher, traffic=False)


def test_a_growing_backlog_fires_and_a_drained_one_resolves_it(
    daemon: Folder, watch: Callable[[Folder], Prometheus]
) -> None:
    watcher = watch(daemon)
    daemon.platforms.klaviyo.faults.add("*", "status", status=503)
    daemon.ingest(*(f"waiting-{n}@example.com" for n in range(1_100)))
    wait_until_firing("BacklogGrowing", daemon, watcher)
    daemon.platforms.klaviyo.faults.clear()
    wait_until_resolved("BacklogGrowing", daemon, watcher)


DISK = """\
import os, shutil
usage = shutil.disk_usage
def disk_usage(path):
    free = int(open(os.environ["FREE"]).read())
    return usage(path)._replace(free=free)
shutil.disk_usage = disk_usage
"""


def test_a_filling_disk_fires_early_and_again_when_full(
    tmp_path: Path, make: Callable[..., Folder], watch: Callable[[Folder], Prometheus]
) -> None:
    daemon = make(min_free="1GB")
    free = tmp_path / "free"
    left = 15_000_000_000

    def fill(by: int) -> None:
        nonlocal left
        left -= by
        (tmp_path / "new").write_text(str(left))
        (tmp_path / "new").rename(free)

    (tmp_path / "sitecustomize.py").write_text(DISK)
    daemon.env |= {"PYTHONPATH": f"{tmp_path}:{daemon.env['PYTHONPATH']}", "FREE": str(free)}
    fill(0)
    daemon.start()
    watcher = watch(daemon)

    def is_warned() -> bool:
        fill(10_000_000)
        time.sleep(0.2)
        return "DiskFilling" in watcher.firing()

    until("DiskFilling fires", is_warned, 90)
    assert left > 10_000_000_000
    assert "DiskNearlyFull" not in watcher.firing()
    fill(left - 900_000_000)
    until("intake closes", lambda: daemon.request("GET", "/readyz")[0] == 503)
    until("DiskNearlyFull fires", lambda: "DiskNearlyFull" in watcher.firing(), 30)
    assert "S20" in daemon.request("GET", "/healthz")[1]


def test_no_events_for_an_hour_fires_if_there_were_some_a_day_ago(
    daemon: Folder, watch: Callable[..., Prometheus]
) -> None:
    now = time.time()
    labels = f'connection="acme",kind="event",via="webhook",instance="127.0.0.1:{daemon.port}"'
    name = "connector_records_received_total"
    past = [f"# TYPE {name.removesuffix('_total')} counter"]
    # The same hour of yesterday, and a little more: a day is 24 minutes here.
    for at in range(-1_600, -1_100):
        past.append(f'{name}{{job="connector",{labels}}} {at + 1_600} {now + at:.0f}')
    post(daemon)
    watcher = watch(daemon, "\n".join(past) + "\n")
    # The first scrape is at the earliest 5 s after the start; until then the alert may fire.
    until("the daemon is scraped", lambda: bool(watcher.query("up")))
    until("the alert is resolved", lambda: "NoEvents" not in watcher.firing())
    busy_until = time.monotonic() + 15
    while time.monotonic() < busy_until:
        post(daemon)
        assert "NoEvents" not in watcher.firing()
        time.sleep(0.5)
    quiet_since = time.monotonic()
    wait_until_firing("NoEvents", daemon, watcher, traffic=False)
    assert time.monotonic() - quiet_since > 50
    wait_until_resolved("NoEvents", daemon, watcher)


def test_a_stuck_job_fires_and_its_end_resolves_it(
    make: Callable[..., Folder], watch: Callable[[Folder], Prometheus]
) -> None:
    daemon = make("bulk_threshold = 1\n")
    daemon.start()
    watcher = watch(daemon)
    jobs = daemon.platforms.klaviyo.jobs

    def has_stalled_jobs() -> bool:
        post(daemon, 5)
        open_jobs = [job.id for job in jobs.all() if job.open]
        for id in open_jobs:
            jobs.stall(id)
        return bool(open_jobs)

    until("a job is stalled", has_stalled_jobs)
    wait_until_firing("ImportJobStuck", daemon, watcher, traffic=False)
    for job in jobs.all():
        jobs.run(job.id)
    until("ImportJobStuck ends", lambda: "ImportJobStuck" not in watcher.firing(), 60)
