"""Faults: reported all at once, by key, without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from connector.config import load
from connector.domain.errors import ConfigError

from .conftest import ACME, MODELS, Faults, Loader

BAD = """
[store]
url = "mysql://root:hunter2@db/x"
min_free = "much"

[server]
port = 70000
public_url = "https://loyalty.example.com"
shutdown_timeout = 20

[security]
encryption_key = "hunter2"

[delivry]
retry_base = "1s"

[log]
level = "loud"
colour = true

[[connections]]
name = "acme"
source = "jericommerce"
modes = "live"
settings = { api_key = "${ACME_API_KEY}", push_auth = "pk_hunter2", base_url = "http://jeri.net" }
klaviyo = { private_key = "${ACME_KEY:-}", rate_share = 1.5, base_url = "http://k.example" }
actions = { secret = "" }
audiences = [{ audience = "vip", list = "VIP", every = "25h" }]

[[connections]]
name = "Other One"
source = "yotpoo"
klaviyo = { private_key = 17, privat_key = "pk_hunter2" }
audiences = [{ audience = "vip", list = "VIP" }]
segments = [{ segment = "S", every = "16m" }]
"""

EXPECTED = {
    "store.url": 'scheme "mysql"',
    "store.min_free": 'found "much", allowed a size',
    "server.port": "found 70000, allowed a whole number from 0 to 65535",
    "server.public_url": "admin_port",
    "server.shutdown_timeout": "found 20, allowed a duration",
    "security.encryption_key": "Fernet",
    "delivry": 'found an unknown key; did you mean "delivery"?',
    "log.level": 'found "loud", allowed "debug" | "info" | "warning" | "error"',
    "log.colour": "unknown key, allowed format, level",
    "connections.acme.modes": 'did you mean "mode"',
    "connections.acme.settings.api_key": "ACME_API_KEY is not set",
    "connections.acme.settings.program": "found nothing, allowed the program's slug or UUID",
    "connections.acme.settings.base_url": "found http:// to jeri.net",
    "connections.acme.settings.push_auth": 'not shown, allowed "bearer" | "api-key"',
    "connections.acme.klaviyo.private_key": "set ACME_KEY in the environment",
    "connections.acme.klaviyo.rate_share": "found 1.5, allowed a number from 0 to 1",
    "connections.acme.klaviyo.base_url": "allow_http",
    "connections.acme.actions.secret": "ACME_FLOW_SECRET",
    "connections.acme.audiences.0.every": "from 1s to 24h",
    "connections.1.name": 'found "Other One", allowed a name of a-z, 0-9 and -',
    "connections.1.source": 'did you mean "yotpo"?',
    "connections.1.klaviyo.private_key": "allowed a secret",
    "connections.1.klaviyo.privat_key": 'did you mean "private_key"',
    "connections.1.audiences.0.list": "connections.acme.audiences.0",
    "connections.1.segments.0.target": "found nothing",
    "connections.1.segments.0.every": "from 1s to 15m",
}


def test_every_fault_is_reported_at_once(faults: Faults) -> None:
    found = faults(BAD)
    by_key = dict(line.split(": ", 1) for line in found)
    assert len(by_key) == len(found)
    assert set(by_key) == set(EXPECTED)
    for key, text in EXPECTED.items():
        assert text in by_key[key], by_key[key]


def test_no_fault_contains_a_secret(faults: Faults) -> None:
    assert "hunter2" not in "\n".join(faults(BAD))


def test_a_secret_from_a_variable_is_not_shown_in_another_key(faults: Faults) -> None:
    (fault,) = faults('[log]\nlevel = "${ACME_TOKEN}"\n', {"ACME_TOKEN": "s3cr3t"})
    assert fault.startswith("log.level: ")
    assert "s3cr3t" not in fault


GUARDED = '[server]\npublic_url = "https://l.example"\n'


@pytest.mark.parametrize(
    "text",
    [
        GUARDED + 'admin_port = 9000\n',
        GUARDED + '[console]\npassword = "x"\n',
        '[server]\npublic_url = "http://localhost:8787"\n',
        '[server]\npublic_url = "http://[::1]:8787"\n',
        ACME.replace("}\nk", ', base_url = "http://127.0.0.2:1" }\nk'),
        '[security]\nallow_http = ["jeri"]\n'
        + ACME.replace("}\nk", ', base_url = "http://jeri:8" }\nk'),
        ACME.replace('"pk_1"', '""') + "enabled = false\n",
        ACME.replace('api_key = "jk"', 'api_key = ""') + "enabled = false\n",
        ACME + 'tiers = [{ name = "Gold", points = 1000 }]\nrewards = [{ name = "5", cost = 5 }]\n',
        '[delivery]\nlate_after = "never"\n',
        2 * '[[notify]]\nurl = ""\n',
        '[store]\nurl = "postgresql://u:p/w#@[::1]:5432/d?pooler=transaction"\n',
        '[store]\nurl = "postgresql:///d?host=/run/postgresql"\n',
        '[store]\nurl = "postgresql://conn@srv:pa/ss@db.example/d"\n',
        '[store]\nurl = "postgresql://u:p[w#@db_1.example.:5432/d"\n',
        '[[notify]]\nurl = "https://\\u05d01.example/x"\n',
    ],
)  # fmt: skip
def test_valid_configurations_are_accepted(text: str, read: Loader) -> None:
    read(text)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (ACME + ACME, "connections.1.name"),
        (ACME.replace('"acme"\nsource', '"a.b"\nsource'), "connections.0.name"),
        (ACME.replace('"jk"', '""'), "connections.acme.settings.api_key"),
        (ACME.replace('program = "acme"', 'program = ""'), "connections.acme.settings.program"),
        (ACME + 'mode = "dry"\n', "connections.acme.mode"),
        (ACME + 'modules = ["events", "x"]\n', "connections.acme.modules.1"),
        (
            ACME.replace('program = "acme"', 'program = "acme", pollevery = "1s"'),
            "connections.acme.settings.pollevery",
        ),
        (ACME + "actions = {}\n", "connections.acme.actions.secret"),
        (ACME + "actions = { secret = [] }\n", "connections.acme.actions.secret"),
        (
            ACME + 'actions = { secret = "s", look_ups = ["0s", "soon"] }\n',
            "connections.acme.actions.look_ups.1",
        ),
        (
            ACME
            + 'segments = [{ segment = "S", target = "t", on_join = [{ action = "push" }] }]\n',
            "connections.acme.segments.0.on_join.0.message",
        ),
        (
            ACME + 'audiences = [{ audience = "a", list = "L" }, { audience = "a", list = "L" }]\n',
            "connections.acme.audiences.1.audience",
        ),
        (
            ACME
            + 'audiences = [{ audience = "a", list = "L" }, '
            + '{ audience = "b", list = "L", foreign_members = "remove" }]\n',
            "connections.acme.audiences.1.foreign_members",
        ),
        ('connections = "x"\n', "connections"),
        ('store = "x"\n', "store"),
        ("connections = [1]\n", "connections.0"),
        ('[store]\nurl = "nonsense"\n', "store.url"),
        ('[delivery]\nlate_after = "-1s"\n', "delivery.late_after"),
        ('[delivery]\nretry_base = "never"\n', "delivery.retry_base"),
        ('[delivery]\nretry_base = "6m"\n', "delivery.retry_base"),
        ("[server]\nadmin_port = 8787\n", "server.admin_port"),
        ('[[notify]]\nurl = "http://hooks.example/s3cr3t"\n', "notify.0.url"),
        ('[[notify]]\nformat = "xml"\n', "notify.0.format"),
        (
            ACME.replace("}\nk", ', base_url = "https://jeri.example:84430" }\nk'),
            "connections.acme.settings.base_url",
        ),
        ('[[notify]]\nurl = "https://hooks.example:s3cr3t"\n', "notify.0.url"),
        ('[[notify]]\nurl = "https://hooks..example/s3cr3t"\n', "notify.0.url"),
        (f'[[notify]]\nurl = "https://{"a" * 64}.example/s3cr3t"\n', "notify.0.url"),
        ('[server]\npublic_url = "http://localhost:65536"\n', "server.public_url"),
        ('[store]\nurl = "postgresql://u:s3cr3t@db:65536/d"\n', "store.url"),
        ('[store]\nurl = "postgresql://u:s3cr3t@db:abc/d"\n', "store.url"),
        ('[store]\nurl = "postgresql://u:s3cr3t@[::1/d"\n', "store.url"),
        ('[store]\nurl = "postgresql://u:s3cr3t@a..b/d"\n', "store.url"),
        ('[store]\nurl = "postgresql://u:pw@s3cr3t:pw@db.example/d"\n', "store.url"),
        ('[store]\nurl = "postgresql://u:s3cr3t@db:/d"\n', "store.url"),
        ('[store]\nurl = "postgres://u:s3cr3t@db.example/d"\n', "store.url"),
        ('[store]\nlisten_url = "postgresql://u:s3cr3t@a..b/d"\n', "store.listen_url"),
    ],
)
def test_single_faults(text: str, key: str, faults: Faults) -> None:
    found = faults(text)
    assert len(found) == 1, found
    assert found[0].startswith(f"{key}: found ")
    assert "s3cr3t" not in found[0]


def test_oauth_needs_the_app_an_encryption_key_and_no_private_key(faults: Faults) -> None:
    found = faults(ACME.replace('private_key = "pk_1"', 'auth = "oauth"'))
    assert [line.split(":")[0] for line in found] == [
        "klaviyo_app.client_id",
        "klaviyo_app.client_secret",
        "security.encryption_key",
    ]
    assert "set KLAVIYO_CLIENT_ID" in found[0]


def test_an_empty_value_names_the_variable_that_the_file_takes_it_from(faults: Faults) -> None:
    text = ACME.replace('program = "acme"', 'program = "${ACME_PROGRAM:-}"')
    assert faults(text) == [
        'connections.acme.settings.program: found "", allowed the program\'s slug or UUID: set '
        "ACME_PROGRAM in the environment or in .env"
    ]


def test_a_syntax_error_names_file_line_and_column(tmp_path: Path, faults: Faults) -> None:
    (fault,) = faults("[log]\nlevel = loud\n")
    assert fault == f"{tmp_path / 'connector.toml'}: line 2, column 9: Invalid value"
    (fault,) = faults('[log]\nlevel = """x')
    assert "line 2, column 13" in fault


def test_a_file_that_is_not_text_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "connector.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(path, environ={})


def test_a_missing_file_names_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="connector init"):
        load(environ={"CONNECTOR_CONFIG": str(tmp_path / "x.toml")}, settings_models=MODELS)
