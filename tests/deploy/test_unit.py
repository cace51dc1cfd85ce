"""The systemd unit."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from connector.config import Config

from .places import CONFIG, DEPLOY, STATE

UNIT = DEPLOY / "systemd" / "connector.service"


def said(key: str) -> list[str]:
    lines = (line.partition("=") for line in UNIT.read_text().splitlines() if line[:1] != "#")
    return [value for name, _, value in lines if name == key]


def test_it_waits_longer_than_the_daemon_takes_to_stop() -> None:
    assert int(said("TimeoutStopSec")[0]) > Config().server.shutdown_timeout + 10
    assert said("KillSignal") == ["SIGTERM"]


def test_a_fault_of_the_configuration_is_not_tried_again_and_everything_else_is() -> None:
    assert said("Restart") == ["on-failure"]
    assert said("RestartPreventExitStatus") == ["2"]
    assert said("StartLimitIntervalSec") == ["0"]
    assert said("ExecReload") == ["/bin/kill -HUP $MAINPID"]


def test_its_places_are_those_of_the_page() -> None:
    assert f"CONNECTOR_CONFIG={CONFIG}" in said("Environment")
    assert said("StateDirectory") == [Path(STATE).name]
    assert said("WorkingDirectory") == [STATE]
    assert said("ProtectSystem") == ["strict"]
    assert said("NoNewPrivileges") == ["true"]
    assert said("ProcSubset") == [], "the lease reads /proc/sys/kernel/random/boot_id"
    page = (DEPLOY.parent / "docs" / "deploy.md").read_text()
    program = said("ExecStart")[0].split()[0]
    for place in (program, CONFIG, STATE, said("User")[0]):
        assert place in page


def test_systemd_finds_no_fault_and_little_exposure(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("no systemd-analyze")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/connector/bin/connector", "/bin/true"))
    run = subprocess.run(
        [tool, "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    run = subprocess.run(
        [tool, "security", "--offline=yes", "--threshold=20", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in run.stderr:
        pytest.skip("systemd before 250")
    assert run.returncode == 0, run.stdout[-500:] + run.stderr
