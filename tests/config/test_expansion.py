"""`${…}` in strings, `.env`, and their precedence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.config import escaped, load
from connector.config.expand import Expander, ExpansionError

from .conftest import ACME, Faults, Loader

ENVIRON = {"NAME": "value", "EMPTY": "", "DOLLAR": "a$b${NAME}"}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("plain", "plain"),
        ("${NAME}", "value"),
        ("a ${NAME} b ${NAME}", "a value b value"),
        ("${EMPTY}", ""),
        ("${EMPTY:-other}", "other"),
        ("${NONE:-other}", "other"),
        ("${NONE:-}", ""),
        ("${NONE:-http://h:1/x?y=$z}", "http://h:1/x?y=$z"),
        ("${NAME:-other}", "value"),
        ("$$", "$"),
        ("$${NAME}", "${NAME}"),
        ("$$${NAME}", "$value"),
        ("100 $ and $NAME", "100 $ and $NAME"),
        ("${DOLLAR}", "a$b${NAME}"),
        ("${file:one}", "text"),
        ("${file:two}", "text\n"),
        ("<${file:none}>", "<>"),
    ],
)
def test_expansion(written: str, expected: str, tmp_path: Path) -> None:
    for name, text in {"one": "text\n", "two": "text\n\n", "none": ""}.items():
        (tmp_path / name).write_text(text)
    assert Expander(ENVIRON).text(written, tmp_path) == expected


@pytest.mark.parametrize(
    ("written", "expected_text"),
    [
        ("${NONE}", "NONE is not set"),
        ("${NAME", "${ without }"),
        ("${}", "cannot be parsed"),
        ("${1A}", "cannot be parsed"),
        ("${NAME:-${OTHER}}", "not nested"),
        ("${file:absent}", "No such file"),
    ],
)
def test_a_failed_expansion_reports_why(written: str, expected_text: str, tmp_path: Path) -> None:
    with pytest.raises(ExpansionError) as caught:
        Expander(ENVIRON).text(written, tmp_path)
    assert expected_text in str(caught.value)


@given(st.text())
def test_an_escaped_string_comes_back_as_it_was(text: str) -> None:
    assert Expander({}).text(escaped(text), Path()) == text


def test_an_unset_variable_is_named_with_its_key(faults: Faults) -> None:
    (fault,) = faults(ACME.replace('"pk_1"', '"${ACME_KEY}"'))
    assert fault.startswith("connections.acme.klaviyo.private_key: ")
    assert "ACME_KEY is not set" in fault


def test_defaults_are_expanded_when_not_in_the_file(read: Loader) -> None:
    config = read(
        ACME.replace('klaviyo = { private_key = "pk_1" }', ""),
        {
            "CONNECTOR_HOST": "0.0.0.0",
            "CONNECTOR_STORE_URL": "postgresql://u:p@db/c",
            "CONNECTOR_CONSOLE_PASSWORD": "hunter2",
            "CONNECTOR_ENCRYPTION_KEY": "A" * 43 + "=",
            "KLAVIYO_CLIENT_ID": "id",
            "KLAVIYO_CLIENT_SECRET": "app",
            "KLAVIYO_BASE_URL": "https://k.example",
            "KLAVIYO_PRIVATE_KEY": "pk_env",
        },
    )
    assert config.server.host == "0.0.0.0"
    assert config.store.url == "postgresql://u:p@db/c"
    assert [word.get_secret_value() for word in config.console.password] == ["hunter2"]
    assert config.security.encryption_key[0].get_secret_value() == "A" * 43 + "="
    assert config.klaviyo_app.client_id == "id"
    assert config.klaviyo_app.client_secret.get_secret_value() == "app"
    klaviyo = config.connections[0].klaviyo
    assert klaviyo.base_url == "https://k.example"
    assert klaviyo.private_key.get_secret_value() == "pk_env"


def test_numbers_and_booleans_may_come_from_a_variable(read: Loader) -> None:
    text = (
        '[server]\nport = "${PORT}"\n[[connections]]\nname = "acme"\nsource = "jericommerce"\n'
        'enabled = "${ON}"\n[connections.settings]\nprogram = "demo"\n'
    )
    config = read(text, {"PORT": "9000", "ON": "false"})
    assert config.server.port == 9000
    assert config.connections[0].enabled is False


def test_dot_env_is_read_and_the_real_environment_wins(tmp_path: Path) -> None:
    (tmp_path / "connector.toml").write_text('[log]\nlevel = "${LEVEL}"\nformat = "${FORMAT}"\n')
    (tmp_path / ".env").write_text("LEVEL=debug\nFORMAT=json\nCONNECTOR_HOST='$LEVEL'\nBARE\n")
    config = load(tmp_path / "connector.toml", environ={"LEVEL": "error"})
    assert (config.log.level, config.log.format) == ("error", "json")
    assert config.server.host == "$LEVEL"
