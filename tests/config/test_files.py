"""Which files are read, how they merge, and where relative paths start."""

from __future__ import annotations

from pathlib import Path

import pytest

from connector.config import load
from connector.domain.errors import ConfigError
from connector.platforms.jericommerce.settings import Settings
from tests.paths import ROOT

from .conftest import ACME, MODELS, Loader

OTHER = ACME.replace('"acme"\nsource', '"other"\nsource')
JERICOMMERCE = """\
program = "acme"
api_key = "${ACME_API_KEY}"
webhook_secret = "${ACME_WEBHOOK_SECRET}\""""


def test_includes_merge_tables_and_append_connections(read: Loader, tmp_path: Path) -> None:
    parts = tmp_path / "connections.d"
    parts.mkdir()
    (parts / "b.toml").write_text(OTHER + 'mapping = "maps/o.toml"\n[log]\nformat = "json"\n')
    (parts / "a.toml").write_text(ACME.replace('"acme"\nsource', '"first"\nsource'))
    config = read('[log]\nlevel = "debug"\n' + ACME)
    assert [connection.name for connection in config.connections] == ["acme", "first", "other"]
    assert (config.log.level, config.log.format) == ("debug", "json")
    assert config.files == (tmp_path / "connector.toml", parts / "a.toml", parts / "b.toml")
    assert config.connection("other").mapping == parts / "maps/o.toml"
    assert config.connection("first").mapping == tmp_path / "mappings/jericommerce.toml"


def test_a_key_in_two_files_names_both(read: Loader, tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text('include = []\n[log]\nlevel = "info"\n')
    with pytest.raises(ConfigError) as caught:
        read('include = ["more.toml"]\n[log]\nlevel = "debug"\n')
    main, more = tmp_path / "connector.toml", tmp_path / "more.toml"
    assert caught.value.faults == (
        f"include: found in {more}, allowed in {main} only",
        f"log.level: found in {main} and in {more}, allowed in one file",
    )


def test_a_broken_include_does_not_hide_other_faults(read: Loader, tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text("=\n")
    with pytest.raises(ConfigError) as caught:
        read('include = ["more.toml"]\n[log]\nlevel = "loud"\n')
    first, second = caught.value.faults
    assert first.startswith(f"{tmp_path / 'more.toml'}: line 1, column 1: ")
    assert second.startswith("log.level: ")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("sqlite:///state/c.db", "sqlite:///{folder}/state/c.db"),
        ("sqlite:////abs/c.db", "sqlite:////abs/c.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql://u:p@h/d", "postgresql://u:p@h/d"),
    ],
)
def test_store_url(written: str, expected: str, read: Loader, tmp_path: Path) -> None:
    config = read(f'[store]\nurl = "{written}"\n')
    assert config.store.url == expected.replace("{folder}", str(tmp_path))


def test_the_environment_or_the_folder_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "connector.toml").write_text('[log]\nlevel = "debug"\n')
    (tmp_path / "x.toml").write_text('[log]\nlevel = "error"\n')
    monkeypatch.chdir(tmp_path)
    assert load(environ={}).log.level == "debug"
    assert load(environ={"CONNECTOR_CONFIG": "x.toml"}).log.level == "error"


def test_the_config_records_which_keys_the_files_set(read: Loader) -> None:
    config = read(ACME + 'modules = ["events"]\n')
    assert config.is_set("connections.acme.modules")
    assert config.is_set("connections.acme.settings.program")
    assert not config.is_set("connections.acme.enabled")
    assert not config.is_set("server.host")


def test_settings_stay_a_dict_without_models(read: Loader) -> None:
    config = read(ACME.replace('"jericommerce"', '"anything"'), models=False)
    assert config.connections[0].settings == {"program": "acme", "api_key": "jk"}


def test_the_module_form_of_a_source_has_a_mapping(read: Loader) -> None:
    config = read(ACME.replace('"jericommerce"', '"pkg.module:Stamps"'), models=False)
    assert config.connections[0].mapping.name == "stamps.toml"


def test_secrets_may_be_lists_and_empty_ones_do_not_count(read: Loader) -> None:
    config = read(ACME + 'actions = { secret = ["new", "", "old"] }\n')
    actions = config.connections[0].actions
    assert actions is not None
    assert [secret.get_secret_value() for secret in actions.secret] == ["new", "old"]


def test_the_shipped_file_loads_with_an_empty_environment() -> None:
    config = load(ROOT / "connector.toml", environ={}, settings_models=MODELS)
    (demo,) = config.connections
    assert (demo.name, demo.source) == ("demo", "jericommerce")
    assert demo.mapping == ROOT / "mappings/jericommerce.toml"
    assert demo.klaviyo.base_url == "http://127.0.0.1:8791"
    assert demo.klaviyo.private_key.get_secret_value() == "pk_sandbox"
    assert isinstance(demo.settings, Settings)
    assert demo.settings.base_url == "http://127.0.0.1:8792"
    assert demo.settings.push_url == "http://127.0.0.1:8792/v1/push"
    assert demo.settings.api_key.get_secret_value() == "jeri_sandbox"
    assert [s.get_secret_value() for s in demo.settings.webhook_secret] == ["jeri_webhook_secret"]


def test_the_rendered_template_loads(tmp_path: Path) -> None:
    values = {
        "{{source}}": "jericommerce",
        "{{name}}": "acme",
        "{{NAME}}": "ACME",
        "{{settings}}": JERICOMMERCE,
        "{{console_password}}": "p",
        "{{encryption_key}}": "A" * 43 + "=",
        "{{flow_secret}}": "f",
        "{{secrets}}": "ACME_API_KEY=k\nACME_WEBHOOK_SECRET=w",
    }
    for template, name in (("connector.toml", "connector.toml"), ("env", ".env")):
        text = (ROOT / "connector/tools/templates" / template).read_text()
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        assert "{{" not in text.replace("${{", "")
        (tmp_path / name).write_text(text)
    path = tmp_path / "connector.toml"
    with pytest.raises(ConfigError) as caught:
        load(path, environ={}, settings_models=MODELS)
    (fault,) = caught.value.faults
    assert fault.startswith("connections.acme.klaviyo.private_key: ")
    assert "set ACME_KLAVIYO_PRIVATE_KEY" in fault
    config = load(path, environ={"ACME_KLAVIYO_PRIVATE_KEY": "pk_1"}, settings_models=MODELS)
    assert config.connection("acme").klaviyo.base_url == "https://a.klaviyo.com"
    for name in ("enabled", "modules", "audiences", "segments"):
        assert not config.is_set(f"connections.acme.{name}")
