"""`connector new platform` writes a package whose tests pass as written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from connector import cli
from connector.domain.errors import ConfigError
from connector.tools.templates.platforms import write
from tests.paths import ROOT


def run(at: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a tool as in a new terminal with this connector installed."""
    environ = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": str(at)}
    command = [sys.executable, "-m", *args]
    return subprocess.run(command, cwd=at, env=environ, capture_output=True, text=True, timeout=240)


def run_tests(at: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Without those plugins of this environment that the package does not ask for."""
    # What Hypothesis reads of the modules here and of Unicode it reads once, not in each folder.
    for name in ("constants", "unicode_data"):
        known = ROOT / ".hypothesis" / name
        known.mkdir(parents=True, exist_ok=True)
        (at / ".hypothesis").mkdir(exist_ok=True)
        (at / ".hypothesis" / name).symlink_to(known)
    others = [f"-pno:{name}" for name in ("schemathesis", "playwright", "xdist", "cacheprovider")]
    return run(at, "pytest", "-q", *others, *args)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "acme"
    write(folder, "acme_club")
    return folder


def test_the_new_platform_passes_the_contract(written: Path) -> None:
    done = run_tests(written)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout or "[100%]" in done.stdout


def test_its_code_is_clean(written: Path) -> None:
    for check in (["check"], ["format", "--check"]):
        config = ["--config", str(ROOT / "pyproject.toml"), "--config", "src=['.']"]
        done = run(written, "ruff", *check, "--no-cache", *config, ".")
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_webhook_that_authorizes_everyone_fails_the_contract(
    written: Path, tmp_path: Path
) -> None:
    """The generated test can fail."""
    folder = tmp_path / "open"
    write(folder, "acme_club")
    webhook = folder / "acme_club_connector" / "webhook.py"
    webhook.write_text(webhook.read_text().replace("if not is_signed(", "if False and is_signed("))
    done = run_tests(folder, "-k", "rejected")
    assert done.returncode == 1
    assert "test_a_request_without_the_secret_is_rejected" in done.stdout


def test_nothing_is_overwritten_and_a_name_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(ConfigError, match="not empty"):
        write(tmp_path, "acme")
    for name in ("Acme", "a-b", "1a", "", "class", "../x", "a" * 41):
        with pytest.raises(ConfigError, match="found the name"):
            write(tmp_path / "new", name)
    for name in ("yotpo", "http"):
        with pytest.raises(ConfigError, match=f"`{name}` is installed already"):
            write(tmp_path / "new", name)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_command_prints_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["connector", "new", "platform", "acme_club"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert "acme-club-connector/acme_club_connector/webhook.py" in capsys.readouterr().out
