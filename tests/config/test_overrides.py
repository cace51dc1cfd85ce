"""Settings made at run time: below the files, above a mapping, and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.config import Config, Override, is_settable, load, parse_key, show, with_overrides
from connector.config.export import export
from connector.domain.errors import ConfigError
from tests.paths import MAPPINGS

from .conftest import ACME, MODELS, Loader

ENV = {"ACME_API_KEY": "jk-from-environment"}


def override(key: str, value: Any, connection: str = "acme") -> Override:
    return Override(connection, parse_key(key), value, "ana", 1_790_000_000_000)


def test_a_file_takes_precedence_over_an_override(read: Loader) -> None:
    config = read(ACME + 'modules = ["events"]\n')
    made = with_overrides(config, [override("modules", ["profiles"]), override("mode", "shadow")])
    acme = made.connection("acme")
    assert (acme.modules, acme.mode) == (("events",), "shadow")
    assert made.origin("connections.acme.modules") == "file"
    assert made.origin("connections.acme.mode") == "run time"
    assert made.origin("connections.acme.enabled") == "default"
    assert with_overrides(made, ()).connection("acme").mode == "live"


def test_an_override_wins_over_the_environments_default(read: Loader) -> None:
    config = read(
        ACME.replace('klaviyo = { private_key = "pk_1" }', ""), {"KLAVIYO_PRIVATE_KEY": "pk_env"}
    )
    made = with_overrides(config, [override("klaviyo.private_key", "pk_$override${X}")])
    key = made.connection("acme").klaviyo.private_key.get_secret_value()
    assert key == "pk_$override${X}"


def test_a_file_that_is_complete_only_with_overrides_is_read_in_two_steps(tmp_path: Path) -> None:
    path = tmp_path / "connector.toml"
    path.write_text(ACME.replace('klaviyo = { private_key = "pk_1" }', ""))
    with pytest.raises(ConfigError):
        load(path, environ={}, settings_models=MODELS)
    config = load(path, environ={}, settings_models=MODELS, complete=False)
    made = with_overrides(config, [override("klaviyo.private_key", "pk_2")])
    assert made.connection("acme").klaviyo.private_key.get_secret_value() == "pk_2"
    with pytest.raises(ConfigError):
        with_overrides(config, ())


def test_a_file_whose_store_is_unknown_is_refused_in_the_first_step(tmp_path: Path) -> None:
    path = tmp_path / "connector.toml"
    path.write_text('[store]\nurl = "nonsense"\n')
    with pytest.raises(ConfigError):
        load(path, environ={}, settings_models=MODELS, complete=False)


def test_a_fault_of_an_override_says_how_to_remove_it(read: Loader) -> None:
    with pytest.raises(ConfigError) as caught:
        with_overrides(read(ACME), [override("mode", "sideways")])
    [line] = caught.value.faults
    assert line.startswith('connections.acme.mode: found "sideways"')
    assert "connector config unset acme mode" in line


def test_a_connection_may_be_made_at_run_time(read: Loader) -> None:
    made = with_overrides(
        read(ACME),
        [
            override("settings.program", "p", "shop"),
            override("settings.api_key", "k", "shop"),
            override("klaviyo.private_key", "pk_2", "shop"),
            override("source", "jericommerce", "shop"),
            override("mode", "shadow", "gone"),
        ],
    )
    assert [c.name for c in made.connections] == ["acme", "shop"]
    assert made.connection("shop").settings.program == "p"


@pytest.mark.parametrize(
    ("key", "settable"),
    [
        ("enabled", True),
        ("settings.api_key", True),
        ("actions.secret", True),
        ("actions.nonsense", False),
        ('mapping.events.metrics."Balance changed".enabled', True),
        ("mapping.profile.fields.balance.enabled", True),
        ("mapping.profile.fields.balance.from", False),
        ("email_change", False),
        ("klaviyo.base_url", False),
        ("server.port", False),
    ],
)
def test_what_may_be_set_at_run_time(key: str, settable: bool) -> None:
    assert is_settable(parse_key(key)) == settable


@pytest.mark.parametrize("text", ["", "a b", "a..b", "a = 1\nb", "[x]"])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(ValueError, match="no key"):
        parse_key(text)


def test_show_names_what_was_set_at_run_time(read: Loader) -> None:
    config = with_overrides(
        read(ACME + "enabled = true\n"),
        [
            override("mode", "shadow"),
            override("enabled", False),
            override("mapping.profile.fields.balance.enabled", False),
        ],
    )
    text = show(config)
    assert "# Set at run time, below the files:\n#   connections.acme.mode (ana, 2026-" in text
    assert "# Set at run time without effect, because a file sets the key:\n" in text
    assert "mapping.profile.fields.balance.enabled = false (ana" in text
    assert 'mode = "shadow"' in text


# ── export ───────────────────────────────────────────────────────────────────────────────────────

LINKS = st.lists(
    st.fixed_dictionaries(
        {"audience": st.sampled_from(["vip", "gold $1"]), "list": st.sampled_from(["L1", "L2"])},
        optional={"every": st.sampled_from(["10m", "1h"]), "create_list": st.booleans()},
    ),
    max_size=2,
    unique_by=lambda link: (link["audience"], link["list"]),
)
OVERRIDES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "enabled": st.booleans(),
        "mode": st.sampled_from(["live", "shadow"]),
        "modules": st.lists(
            st.sampled_from(["events", "profiles", "audiences", "segments", "actions"]), unique=True
        ),
        "audiences": LINKS,
        "tiers": st.lists(
            st.fixed_dictionaries({"name": st.text("Gold$é{}", min_size=1), "points": st.just(5)}),
            max_size=2,
        ),
        "klaviyo.private_key": st.sampled_from(["pk_run_time", "pk_${X}"]),
    },
)
FILES = st.fixed_dictionaries(
    {
        "api_key": st.sampled_from(["jk-literal", "${ACME_API_KEY}", "a$$b"]),
        "store": st.sampled_from(
            ["sqlite:///state/x.db", "${STORE:-sqlite:///state/x.db}", "sqlite:////abs/x.db"]
        ),
        "extra": st.sampled_from(["", 'mode = "shadow"\n', 'modules = ["events"]\n']),
        "delay": st.sampled_from(["5s", "90s"]),
    }
)
TEXT = """
[store]
url = "{store}"
[server]
shutdown_timeout = "{delay}"
[console]
password = ["console-secret", "${{OLD:-older}}"]
[[notify]]
url = "https://hooks.example/secret-path"
[[connections]]
name = "acme"
source = "jericommerce"
mapping = "{mapping}"
settings = {{ program = "acme", api_key = "{api_key}" }}
{extra}
"""


def comparable(config: Config) -> dict[str, Any]:
    """The effective configuration. Which files are included is not part of it."""
    dumped = config.model_dump(exclude={"include"})
    return {**dumped, "changes": [c.mapping_changes for c in config.connections]}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(FILES, OVERRIDES)
def test_an_export_leads_to_the_same_configuration_in_another_folder(
    tmp_path_factory: pytest.TempPathFactory, file: dict[str, str], made: dict[str, Any]
) -> None:
    old, new = tmp_path_factory.mktemp("old"), tmp_path_factory.mktemp("new")
    path = old / "connector.toml"
    path.write_text(TEXT.format(mapping=MAPPINGS / "jericommerce.toml", **file))
    overrides = [override(key, value) for key, value in made.items()]
    environ = ENV | {"KLAVIYO_PRIVATE_KEY": "pk_env"}
    config = load(path, environ=environ, settings_models=MODELS, overrides=overrides)
    exported = export(config)
    for secret in ("jk-literal", "a$$b", "console-secret", "secret-path", "pk_run_time"):
        assert secret not in exported.text
    values = dict(environ)
    for name, key in exported.variables.items():
        values[name] = secret_at(config, key)
    (new / "connector.toml").write_text(exported.text)
    again = load(new / "connector.toml", environ=values, settings_models=MODELS)
    assert comparable(again) == comparable(config)


def secret_at(config: Config, key: str) -> str:
    """The secret of a dotted key that an export names."""
    value: Any = config
    for part in key.split("."):
        if isinstance(value, tuple):
            value = value[int(part)] if part.isdigit() else config.connection(part)
        else:
            value = getattr(value, part)
    found: str = value.get_secret_value() if hasattr(value, "get_secret_value") else value
    return found
