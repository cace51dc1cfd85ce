"""The image, tested without a container engine: the steps of its Dockerfile are executed below a
folder, and the result is run from another one. What the lock file pins is there before pip looks
for it, as in a cached layer: `make` has installed it here, by the same hashes."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from connector import __version__
from connector.config import Config
from connector.config import load as load_config
from tests.waiting import free_port

from .layout import (
    CONFIG,
    DEPLOY,
    MAPPINGS,
    ROOT,
    SECRETS,
    STATE,
    UID,
    dockerfile,
    secret_files,
)

_PLACES = re.compile(r"(?<![\w.}/])/(?=(?:src|dist|opt|usr/share/connector|etc/connector)\b)")


def only(instruction: str) -> str:
    """The text of the only instruction of this kind in the final stage."""
    last = dockerfile()[-1].stage
    (text,) = [s.text for s in dockerfile() if s.stage == last and s.instruction == instruction]
    return text


# ── the Dockerfile ───────────────────────────────────────────────────────────────────────────────


def test_it_runs_unprivileged_and_stops_with_the_expected_signal() -> None:
    assert only("USER") == f"{UID}:{UID}"
    assert only("STOPSIGNAL") == "SIGTERM"
    assert only("VOLUME") == only("WORKDIR") == STATE
    assert only("EXPOSE") == str(Config().server.port)
    assert only("ENTRYPOINT") == '["connector"]'
    assert only("CMD") == '["run"]'
    assert only("HEALTHCHECK").endswith('CMD ["connector", "healthcheck"]')
    made = only("RUN")
    assert f"--uid {UID}" in made
    assert f"--owner={UID} --group={UID} --mode=0750 {STATE}" in made


def test_its_environment_names_the_paths_that_other_files_mount() -> None:
    (env,) = [s.settings() for s in dockerfile() if s.stage == 1 and s.instruction == "ENV"]
    assert env["CONNECTOR_CONFIG"] == CONFIG
    assert env["CONNECTOR_STORE_URL"] == f"sqlite:///{STATE}/connector.db"
    assert env["CONNECTOR_HOST"] == "0.0.0.0"
    assert env["LOGNAME"]
    copied = [s.text for s in dockerfile() if s.stage == 1 and s.instruction == "COPY"]
    assert f"mappings {MAPPINGS}" in copied
    assert f"deploy/connector.toml {CONFIG}" in copied


def test_the_base_image_is_an_argument_and_every_requirement_has_a_hash() -> None:
    first = dockerfile()[0]
    assert (first.instruction, first.stage) == ("ARG", -1)
    assert re.fullmatch(r"BASE=[a-z/]+:[\w.-]+", first.text)
    froms = [s.text for s in dockerfile() if s.instruction == "FROM"]
    assert froms == ["${BASE} AS build", "${BASE}"]
    installs = [s.text for s in dockerfile() if s.instruction == "RUN" and " install " in s.text]
    assert all("--require-hashes" in t or "--no-deps" in t for t in installs if "pip" in t)


def test_the_build_context_has_exactly_what_the_dockerfile_copies() -> None:
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert next(line for line in ignore if line[:1] not in ("", "#")) == "*"
    sent = {line[1:] for line in ignore if line.startswith("!")} - {"deploy", "docs"}
    steps = [s for s in dockerfile() if s.instruction == "COPY" and not s.text.startswith("--from")]
    copied = {source for s in steps for source in s.text.split()[:-1]}
    assert sent == copied
    assert all((ROOT / name).exists() for name in sent)


# ── its steps executed ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Image:
    top: Path
    env: dict[str, str]

    def at(self, path: str) -> Path:
        return self.top / path.lstrip("/")

    def moved(self, text: str) -> str:
        """A text with the image's paths moved below `top`."""
        return _PLACES.sub(f"{self.top}/", text)

    def run_cli(self, *words: str, cwd: Path, code: int = 0, **env: str) -> str:
        done = subprocess.run(
            [self.at("/opt/connector/bin/connector"), *words],
            cwd=cwd,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "CONNECTOR_", "KLAVIYO_", "SHOP_", "VIRTUAL_ENV"))
    }
    image = Image(tmp_path_factory.mktemp("image"), inherited | {"KLAVIYO_BASE_URL": NOWHERE})
    here = image.top
    for step in dockerfile():
        if step.instruction == "WORKDIR" and step.stage == 0:
            here = image.at(step.text)
            here.mkdir(parents=True)
        elif step.instruction == "COPY" and not step.text.startswith("--from"):
            *sources, target = step.text.split()
            for source in sources:
                _copy(ROOT / source, Path(here, image.moved(target)))
        elif step.instruction == "RUN" and step.stage == 0:
            if "requirements.lock" in step.text:
                _copy_requirements(image.at("/opt/connector"))
            command = re.sub(r"^python\b", shlex.quote(sys.executable), image.moved(step.text))
            done = subprocess.run(
                command,
                shell=True,
                cwd=here,
                env=image.env | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )
            if done.returncode:
                _require_registry(image.top)
            assert done.returncode == 0, f"{step.text}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return image


def _copy_requirements(environment: Path) -> None:
    """Link the locked packages of this environment, or copy them from another file system: pip and
    Python replace files and change none. Those that it lacks pip will fetch."""
    [target] = environment.glob("lib/python*/site-packages")
    here = Path(sysconfig.get_path("purelib"))
    names = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.M)
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            for file in metadata.distribution(name).files or []:
                source, copy = Path(file.locate()), target / file
                if ".." not in file.parts and source.is_relative_to(here) and source.is_file():
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    try:
                        copy.hardlink_to(source)
                    except OSError:
                        shutil.copy2(source, copy)


NOWHERE = "http://127.0.0.1:9"


def _require_registry(top: Path) -> None:
    """Skip where a step failed without a package registry; with one the image is at fault."""
    (backend,) = re.findall(r'requires = \["([^"]+)"\]', (ROOT / "pyproject.toml").read_text())
    words = ["download", "--quiet", "--no-deps", "--dest", str(top / "probe"), backend]
    probe = subprocess.run(
        [sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"pip cannot fetch {backend}")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        return
    target = target / source.name if target.is_dir() else target
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


@pytest.mark.timeout(600)
def test_the_wheel_initializes_a_folder_from_its_own_data(image: Image, tmp_path: Path) -> None:
    assert image.run_cli("--version", cwd=tmp_path).split() == ["connector", __version__]
    image.run_cli("init", "--name", "shop", cwd=tmp_path)
    shipped = sorted(f.relative_to(ROOT) for f in ROOT.glob("mappings/jericommerce*.toml"))
    assert shipped
    assert all((tmp_path / f).read_bytes() == (ROOT / f).read_bytes() for f in shipped)
    assert list((tmp_path / "mappings/examples/jericommerce").glob("*.json"))
    env = tmp_path / ".env"
    env.write_text(
        re.sub(r"^(SHOP_\w+)=$", r"\1=something-long-enough", env.read_text(), flags=re.M)
    )
    output = image.run_cli("check", "--offline", cwd=tmp_path)
    assert "shop: mapping jericommerce.toml: version " in output
    assert "FAULT" not in output


@pytest.fixture
def container(image: Image, tmp_path: Path) -> tuple[Image, dict[str, str]]:
    """The image with its secrets mounted, its state below tmp_path and a free port."""
    port = free_port()
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in secret_files():
        (secrets / name).write_text(f"{name}-of-a-test\n")
    text = image.moved((DEPLOY / "connector.toml").read_text()).replace(SECRETS, str(secrets))
    text = text.replace("port = 8787", f"port = {port}")
    text = text.replace("[connections.settings]", f'[connections.settings]\nbase_url = "{NOWHERE}"')
    file = tmp_path / "etc" / "connector.toml"
    file.parent.mkdir()
    file.write_text(text)
    (env,) = [s.settings() for s in dockerfile() if s.stage == 1 and s.instruction == "ENV"]
    return image, {
        **{key: value for key, value in env.items() if key.startswith("PYTHON")},
        "CONNECTOR_CONFIG": str(file),
        "CONNECTOR_STORE_URL": env["CONNECTOR_STORE_URL"].replace(STATE, str(tmp_path / "state")),
        "CONNECTOR_HOST": "127.0.0.1",  # not 0.0.0.0: tests use loopback only
        "SHOP_PROGRAM": "test",
    }


@pytest.mark.timeout(600)
def test_it_runs_with_the_container_config_passes_its_healthcheck_and_stops(
    container: tuple[Image, dict[str, str]], tmp_path: Path
) -> None:
    image, env = container
    (tmp_path / "empty").mkdir()
    here = tmp_path / "empty"
    assert "FAULT" not in image.run_cli("check", "--offline", cwd=here, **env)
    words = [str(image.at("/opt/connector/bin/connector")), "run"]
    with open(tmp_path / "log", "w+") as log:
        daemon = subprocess.Popen(words, cwd=here, env=image.env | env, stderr=log)
        try:
            deadline = time.monotonic() + 90
            while '"daemon_ready"' not in (tmp_path / "log").read_text():
                assert daemon.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert image.run_cli("healthcheck", cwd=here, **env) == "ok\n"
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(90) == 0
        finally:
            daemon.kill()
            daemon.wait()
    lines = (tmp_path / "log").read_text().splitlines()
    assert all(line.startswith("{") for line in lines), "JSON, every line"
    image.run_cli("healthcheck", cwd=here, code=1, **env)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["connector.db"]
    assert not list(here.iterdir())


# ── deploy/connector.toml ────────────────────────────────────────────────────────────────────────


def test_the_container_config_is_valid_with_its_environment_and_secrets(
    tmp_path: Path,
) -> None:
    from connector.platforms.registry import SettingsModels

    for name in secret_files():
        (tmp_path / name).write_text(f"{name}-of-a-test\n")
    (tmp_path / "postgres_password").write_text("p%40ss\n")
    text = (DEPLOY / "connector.toml").read_text()
    file = tmp_path / "connector.toml"
    file.write_text(text.replace(SECRETS, str(tmp_path)).replace(MAPPINGS, f"{ROOT}/mappings"))
    environ = {
        "SHOP_PROGRAM": "acme",
        "CONNECTOR_PUBLIC_URL": "https://loyalty.example.com",
        "CONNECTOR_STORE_URL": f"sqlite:///{STATE}/connector.db",
    }
    config = load_config(file, environ=environ, settings_models=SettingsModels())
    assert config.log.format == "json"
    assert config.store.url == f"sqlite:///{STATE}/connector.db"
    assert config.server.host == "0.0.0.0"
    assert config.server.port == Config().server.port
    assert config.connections[0].mapping.is_file()

    (tmp_path / "conf.d").mkdir()
    more = (DEPLOY / "store-postgresql.toml").read_text().replace(SECRETS, str(tmp_path))
    (tmp_path / "conf.d" / "store.toml").write_text(more)
    config = load_config(file, environ=environ, settings_models=SettingsModels())
    assert config.store.url == "postgresql://connector:p%40ss@postgres:5432/connector"


def test_the_container_config_contains_no_secret() -> None:
    text = (DEPLOY / "connector.toml").read_text()
    secrets = re.findall(r'^(\w*(?:password|secret|key)) = "(.*)"$', text, re.M)
    assert secrets
    assert all(value.startswith(f"${{file:{SECRETS}/") for _, value in secrets)
