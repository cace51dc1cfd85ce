"""The systemd unit."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from connector.config import Config

from .layout import CONFIG, DEPLOY, STATE

UNIT = DEPLOY / "systemd" / "connector.service"


def directive(key: str) -> list[str]:
    lines = (line.partition("=") for line in UNIT.read_text().splitlines() if line[:1] != "#")
    return [value for name, _, value in lines if name == key]


def test_the_stop_timeout_is_longer_than_the_daemon_needs() -> None:
    assert int(directive("TimeoutStopSec")[0]) > Config().server.shutdown_timeout + 10
    assert directive("KillSignal") == ["SIGTERM"]


def test_the_unit_restarts_on_every_failure_except_a_configuration_fault() -> None:
    assert directive("Restart") == ["on-failure"]
    assert directive("RestartPreventExitStatus") == ["2"]
    assert directive("StartLimitIntervalSec") == ["0"]
    assert directive("ExecReload") == ["/bin/kill -HUP $MAINPID"]


def test_its_paths_match_the_documentation() -> None:
    assert f"CONNECTOR_CONFIG={CONFIG}" in directive("Environment")
    assert directive("StateDirectory") == [Path(STATE).name]
    assert directive("WorkingDirectory") == [STATE]
    assert directive("ProtectSystem") == ["strict"]
    assert directive("NoNewPrivileges") == ["true"]
    assert directive("ProcSubset") == [], "the lease reads /proc/sys/kernel/random/boot_id"
    page = (DEPLOY.parent / "docs" / "deploy.md").read_text()
    program = directive("ExecStart")[0].split()[0]
    for place in (program, CONFIG, STATE, directive("User")[0]):
        assert place in page


def test_systemd_analyze_reports_no_fault_and_low_exposure(tmp_path: Path) -> None:
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
