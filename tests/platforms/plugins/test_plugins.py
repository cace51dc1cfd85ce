"""Platforms by others run from a package of their own, and a fault of one stops its own
connections only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connector.app.configuration import read_config
from connector.config import show
from connector.domain.errors import ConfigError, Problem
from connector.platforms import registry
from connector.ports import PersonRef, Platform
from connector.testing.contracts.platform import Double, PlatformContract, WebhookDelivery
from connector.tools.checks import check

from .daemon import Running, running
from .toy_install import TOY, install, on_path

CONFIG = f"""
[store]
url = "sqlite:///state/connector.db"

[server]
port = 0
shutdown_timeout = "1s"

[[connections]]
name = "cards"
source = "toy"
mapping = "{TOY}/mappings/toy.toml"
settings = {{ base_url = "${{TOY_URL}}", api_key = "toy-key-1", webhook_secret = "toy-secret-1" }}
klaviyo = {{ base_url = "${{KLAVIYO_BASE_URL}}", private_key = "pk_sandbox" }}
"""
OTHER = """
[[connections]]
name = "{name}"
source = "{source}"
mapping = "{name}.toml"
settings = {{ api_key = "other-key-1" }}
klaviyo = {{ base_url = "${{KLAVIYO_BASE_URL}}", private_key = "pk_sandbox" }}
"""
SETTINGS = {
    "base_url": "http://127.0.0.1",
    "api_key": "toy-key-1",
    "webhook_secret": "toy-secret-1",
}
REFUSED = {"base_url": "no address"}
STAMP = orjson.dumps({"stamp": 12, "card": 7, "at": 1_767_225_600})


class Cards:
    """The toy's API."""

    def __init__(self) -> None:
        self.cards = {"7": {"mail": "ana@example.com", "stamps": 3}}
        self.app = Starlette(routes=[Route("/cards/{number}", self._card)])

    async def _card(self, request: Request) -> Response:
        if request.headers.get("x-toy-key") != "toy-key-1":
            return JSONResponse({}, 401)
        card = self.cards.get(request.path_params["number"])
        return JSONResponse(card or {}, 200 if card else 404)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder into which the toy's package is installed."""
    target = tmp_path / "site"
    target.mkdir()
    install(TOY, target)
    with on_path(target, monkeypatch):
        yield target


class TestToy(PlatformContract):
    """The contract test of a platform by others."""

    settings = SETTINGS
    refused = REFUSED
    mappings = TOY / "mappings"

    @pytest.fixture(autouse=True)
    def installed(self, toy: Path) -> None:
        self.platform = registry.load("toy")

    def sign(self, delivery: WebhookDelivery, key: str) -> WebhookDelivery:
        return replace(delivery, secret=key)

    def double(self) -> Double:
        return Double(Cards().app, known_person=PersonRef(1, "7", "ana@example.com", b""))


# ── from end to end ──────────────────────────────────────────────────────────────────────────────


async def stamped(daemon: Running) -> None:
    assert (await daemon.post("cards", STAMP, {}, "toy-secret-1"))[0] == 202
    await daemon.until(lambda: daemon.klaviyo.recorded("toy:12") == 1)
    wanted = {"toy_stamps": 3, "toy_stars": "★★★"}
    await daemon.until(lambda: daemon.properties("ana@example.com") == wanted)


@pytest.mark.parametrize("source", ["toy", "toy_loyalty:PLATFORM"])
async def test_a_third_party_platform_runs(
    source: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG
    if source != "toy":
        mapping = (TOY / "mappings" / "toy.toml").read_text().replace('"toy"', f'"{source}"')
        (tmp_path / "own.toml").write_text(mapping)
        config = config.replace('"toy"', f'"{source}"')
        config = config.replace(f"{TOY}/mappings/toy.toml", "own.toml")
    async with running(tmp_path, config, {"toy": Cards().app}, {}, monkeypatch) as daemon:
        await stamped(daemon)
        assert (await daemon.get("/healthz"))[0] == 200


# ── a broken package ─────────────────────────────────────────────────────────────────────────────

BROKEN = {
    "missing:PLATFORM": (None, "No module named 'missing'"),
    "raising:PLATFORM": ("raise RuntimeError('half installed')", "half installed"),
    "nameless:PLATFORM": ("", "nameless"),
    "odd:PLATFORM": ("PLATFORM = 5", "is not a connector.sdk.Platform"),
    "newer:PLATFORM": (
        "from dataclasses import replace\nfrom toy_loyalty import PLATFORM\n"
        "PLATFORM = replace(PLATFORM, api_version=2)",
        "is written for version 2 of connector.sdk, and this is 1",
    ),
    "closed:PLATFORM": (
        "from dataclasses import replace\nfrom toy_loyalty import PLATFORM\n"
        "async def open(settings, kit):\n    raise KeyError('no way')\n"
        "PLATFORM = replace(PLATFORM, open=open)",
        "no way",
    ),
    "receiverless:PLATFORM": (
        "from dataclasses import replace\nfrom toy_loyalty import PLATFORM\n"
        "def webhook(settings):\n    raise OSError('no receiver')\n"
        "PLATFORM = replace(PLATFORM, webhook=webhook)",
        "no receiver",
    ),
}


def other(folder: Path, source: str, mapping: str = "") -> str:
    """A connection with the name of its source's module and a mapping of its own."""
    name = source.partition(":")[0]
    (folder / f"{name}.toml").write_text(f'version = 1\nsource = "{source}"\n{mapping}')
    return OTHER.format(name=name, source=source)


def broken(source: str, site: Path, folder: Path) -> str:
    """A connection to a package that fails."""
    module, text = source.partition(":")[0], BROKEN[source][0]
    if text is not None:
        (site / f"{module}.py").write_text(text)
    return other(folder, source)


async def test_a_broken_package_stops_its_own_connections_only(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG + "".join(broken(source, toy, tmp_path) for source in BROKEN)
    async with running(tmp_path, config, {"toy": Cards().app}, {}, monkeypatch) as daemon:
        await stamped(daemon)
        assert list(daemon.app.runtimes) == ["cards"]
        status, text = await daemon.get("/healthz")
        reported = dict(line.split(": ", 1) for line in text.splitlines())
        assert status == 500
        for source, (_, why) in BROKEN.items():
            name = source.partition(":")[0]
            assert why in reported[f"C40 {name}"]
            assert (await daemon.post(name, STAMP, {}, "x"))[0] == 503
            assert (await daemon.flow(f"{name}/push", b"{}", "x"))[0] == 503
        assert (await daemon.get("/readyz"))[0] == 200
        assert (await daemon.post("no-such-connection", STAMP, {}, "x"))[0] == 404
        attention = (await daemon.app.commands.status()).attention
        assert [f"{x.code} {x.text.partition(':')[0]}" for x in attention] == list(reported)
        stopped = await daemon.app.until_idle()
        assert [line.partition(":")[0] for line in stopped] == list(reported)


async def test_a_reload_handles_a_broken_package_like_a_working_one(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, CONFIG, {"toy": Cards().app}, {}, monkeypatch) as daemon:
        file = tmp_path / "connector.toml"
        file.write_text(CONFIG + broken("raising:PLATFORM", toy, tmp_path))
        assert (await daemon.app.reload())["reloaded"]
        assert (await daemon.get("/healthz"))[0] == 500
        (toy / "raising.py").write_text("from toy_loyalty import PLATFORM")
        assert (await daemon.app.reload())["reloaded"]
        assert list(daemon.app.runtimes) == ["cards", "raising"]
        file.write_text(CONFIG.replace("toy.toml", "no-such.toml"))
        with pytest.raises(ConfigError):
            await daemon.app.reload()
        assert list(daemon.app.runtimes) == ["cards", "raising"]
        file.write_text(CONFIG)
        assert (await daemon.app.reload())["reloaded"]
        assert (await daemon.get("/healthz"))[0] == 200


def test_a_broken_package_hides_no_fault_of_the_file_and_shows_no_secret(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_URL", "http://127.0.0.1")
    monkeypatch.setenv("KLAVIYO_BASE_URL", "http://127.0.0.1")
    file = tmp_path / "connector.toml"
    file.write_text(CONFIG + broken("raising:PLATFORM", toy, tmp_path))
    assert "other-key-1" not in show(read_config(file))
    file.write_text(file.read_text() + 'modules = ["evnets"]\n')
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [
        "connections.raising.modules.0"
    ]


async def test_check_reports_a_broken_package_and_checks_the_rest(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG + broken("raising:PLATFORM", toy, tmp_path)
    async with running(tmp_path, config, {"toy": Cards().app}, {}, monkeypatch) as daemon:
        found = await check(daemon.app.config)
    faults = [line for line in found if line.level == "fault"]
    assert [(line.name, line.problem) for line in faults] == [
        ("raising: package of raising:PLATFORM", Problem.PLUGIN_BROKEN)
    ]
    assert any(line.name == "cards: toy key" and line.level == "ok" for line in found)


async def test_a_function_that_does_not_import_stops_its_own_connections_only(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = toy / "toy_loyalty-1.0.dist-info" / "entry_points.txt"
    info.write_text(info.read_text() + "gone = no_such_module:gone\n")
    gone = '[profile.fields.x]\nfrom = [{ fn = "gone", of = "balance" }]\n'
    config = CONFIG + other(tmp_path, "toy", gone)
    async with running(tmp_path, config, {"toy": Cards().app}, {}, monkeypatch) as daemon:
        assert list(daemon.app.runtimes) == ["cards"]
        assert "no_such_module" in daemon.app.connections.broken["toy"]


def test_a_platform_is_loaded_only_with_a_valid_interface(toy: Path) -> None:
    found: Any = registry.load("toy")
    assert isinstance(found, Platform)
    with pytest.raises(ConfigError, match="no platform `toyy` is installed"):
        registry.load("toyy")
