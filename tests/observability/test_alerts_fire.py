"""Alerts fire when what they speak of happens at the sandbox, with the rules' own expressions in
which a minute lasts a second."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli.conftest import Folder, Platforms, until

from .running import Prometheus, post
from .tools import RULES

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(300)]

# Tries must come as often as a window of ten seconds wants them.
DELIVERY = 'retry_base = "50ms"\nretry_max = "1s"\n'
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


def sixty_times_faster(rules: str) -> str:
    """Each length of time in rules, of windows and of numbers of seconds, divided by 60."""

    def shorter(found: re.Match[str]) -> str:
        seconds = int(found[2]) * _SECONDS[found[3]] // 60
        return f"{found[1]}{max(1, seconds)}s"

    rules = re.sub(r"((?:for: |\[|:|offset ))(\d+)([mhd])(?=\s|\]|:|\))", shorter, rules)
    return re.sub(r"< 600$", "< 10", rules, flags=re.M)


@pytest.fixture
def platforms() -> Iterator[Platforms]:
    """A pair for each test: what goes wrong here is nobody else's."""
    running = Platforms()
    yield running
    running.stop()


@pytest.fixture
def watch(prometheus: str, tmp_path: Path) -> Iterator[Callable[[Folder], Prometheus]]:
    """Starts a Prometheus that looks at a daemon with the fast rules."""
    started: list[Prometheus] = []

    def start(daemon: Folder) -> Prometheus:
        rules = sixty_times_faster(RULES.read_text())
        started.append(Prometheus(prometheus, tmp_path / "prometheus", daemon.port, rules))
        started[0].wait()
        return started[0]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def daemon(tmp_path: Path, platforms: Platforms) -> Iterator[Folder]:
    made = Folder(tmp_path / tmp_path.name, platforms)
    text = made.config.read_text()
    made.config.write_text(text.replace('retry_base = "50ms"\n', DELIVERY))
    made.start()
    yield made
    made.stop()


def fires(name: str, daemon: Folder, watcher: Prometheus, *, traffic: bool = True) -> None:
    """Events come in until the alert is there."""

    def there() -> bool:
        if traffic:
            post(daemon)
        return name in watcher.firing()

    until(f"{name} fires", there, 90)


def ends(name: str, daemon: Folder, watcher: Prometheus) -> None:
    def gone() -> bool:
        post(daemon)
        return name not in watcher.firing()

    until(f"{name} ends", gone, 90)


def test_a_minute_of_the_rules_lasts_a_second() -> None:
    assert sixty_times_faster("for: 90m\n") == "for: 90s\n"
    assert sixty_times_faster("[30m:1m]) offset 1d) < 600\n") == "[30s:1s]) offset 1440s) < 10\n"


def test_a_revoked_key_fires_and_a_good_one_ends_it(
    daemon: Folder, watch: Callable[[Folder], Prometheus]
) -> None:
    watcher = watch(daemon)
    daemon.platforms.klaviyo.faults.add("*", "status", status=401)
    fires("KeyRevoked", daemon, watcher)
    daemon.platforms.klaviyo.faults.clear()
    ends("KeyRevoked", daemon, watcher)


def test_klaviyo_away_fires_and_does_not_accuse_the_platform(
    daemon: Folder, watch: Callable[[Folder], Prometheus]
) -> None:
    watcher = watch(daemon)
    post(daemon, 3)
    daemon.platforms.klaviyo.faults.add("*", "status", status=503)
    fires("KlaviyoDown", daemon, watcher)
    assert "PlatformDown" not in watcher.firing()
    daemon.platforms.klaviyo.faults.clear()
    ends("KlaviyoDown", daemon, watcher)


def test_the_platform_away_fires_and_does_not_accuse_klaviyo(
    daemon: Folder, watch: Callable[[Folder], Prometheus]
) -> None:
    watcher = watch(daemon)
    post(daemon, 3)
    daemon.platforms.jericommerce.faults.add("*", "reset_before")
    fires("PlatformDown", daemon, watcher)
    assert "KlaviyoDown" not in watcher.firing()
    daemon.platforms.jericommerce.faults.clear()
    ends("PlatformDown", daemon, watcher)


def test_one_dead_letter_fires_the_first_of_its_cause_too(
    daemon: Folder, watch: Callable[[Folder], Prometheus]
) -> None:
    watcher = watch(daemon)
    daemon.platforms.klaviyo.faults.add("events", "status", status=400, count=1)
    post(daemon)
    fires("DeadLetters", daemon, watcher, traffic=False)
