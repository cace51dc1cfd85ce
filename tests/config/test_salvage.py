"""A faulty file still says where the store and the daemon are."""

from __future__ import annotations

from pathlib import Path

import pytest

from connector.config import Config, load, salvage
from connector.domain.errors import ConfigError

GOOD = """\
[store]
url = "sqlite:///${FOLDER:-state}/c.db"

[server]
port = 9001
"""
CONNECTION = """
[[connections]]
name = "acme"
source = "jericommerce"
"""


def salvaged(tmp_path: Path, text: str) -> Config:
    """What is left of this file, which must be faulty."""
    path = tmp_path / "connector.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    return salvage(path, caught.value, environ={})


@pytest.mark.parametrize(
    "rest",
    [
        CONNECTION + "mapping = \n",
        CONNECTION + "modules = [\n",
        CONNECTION + 'mode = "sideways"\n',
        CONNECTION + '[connections.klaviyo]\nprivate_key = "${NOT_SET}"\n',
        "[delivery]\nretry_base = 'soon'\n",
        'colour = "blue"\n[colour]\n',
    ],
)
def test_the_store_and_the_server_are_found_beside_a_fault(tmp_path: Path, rest: str) -> None:
    config = salvaged(tmp_path, GOOD + rest)
    assert config.store.url == f"sqlite:///{tmp_path}/state/c.db"
    assert config.server.port == 9001
    assert config.connections == ()
    assert config.faults


def test_a_faulty_server_section_has_its_defaults(tmp_path: Path) -> None:
    config = salvaged(tmp_path, '[store]\nurl = "sqlite:///c.db"\n[server]\nport = x\n')
    assert (config.server.port, config.store.url) == (8787, f"sqlite:///{tmp_path}/c.db")


@pytest.mark.parametrize(
    "store",
    ['url = "sqlite', 'ulr = "sqlite:///a.db"', 'url = "${NOT_SET}"'],
)
def test_a_faulty_store_section_is_never_replaced_by_the_default(
    tmp_path: Path, store: str
) -> None:
    with pytest.raises(ConfigError):
        salvaged(tmp_path, f"[store]\n{store}\n")


def test_a_file_that_is_missing_stays_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.toml", environ={})
    with pytest.raises(ConfigError, match="not found"):
        salvage(tmp_path / "none.toml", caught.value, environ={})


def test_a_valid_file_has_no_faults(tmp_path: Path) -> None:
    (tmp_path / "connector.toml").write_text(GOOD)
    assert load(tmp_path / "connector.toml", environ={}).faults == ()
