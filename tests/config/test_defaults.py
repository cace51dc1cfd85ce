"""The defaults of every key, written out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr

from connector.config import Actions, Audience, Config, Connection, Klaviyo, Notify, Segment
from connector.platforms.jericommerce.settings import Settings

from .conftest import Loader

DAY = 86400.0

EXPECTED: list[tuple[BaseModel, dict[str, object]]] = [
    (Config(), {"include": ("connections.d/*.toml",), "notify": (), "connections": ()}),
    (
        Config().store,
        {
            "url": "sqlite:///state/connector.db",
            "listen_url": "",
            "migrate": "auto",
            "min_free": 512_000_000,
        },
    ),
    (
        Config().server,
        {
            "host": "127.0.0.1",
            "port": 8787,
            "admin_port": 0,
            "public_url": "http://127.0.0.1:8787",
            "shutdown_timeout": 20.0,
            "drain_delay": 0.0,
            "max_header": 32_000,
            "header_timeout": 10.0,
            "body_timeout": 30.0,
            "max_connections": 1000,
            "trusted_proxies": (),
        },
    ),
    (
        Config().console,
        {"password": (), "viewer_password": (), "api_tokens": (), "session": 43_200.0},
    ),
    (Config().security, {"allow_http": (), "encryption_key": ()}),
    (Config().klaviyo_app, {"client_id": "", "client_secret": SecretStr("")}),
    (Config().log, {"format": "console", "level": "info"}),
    (
        Config().delivery,
        {
            "bulk_threshold": 50,
            "attach_wait": 1.0,
            "attach_wait_max": 5.0,
            "retry_base": 1.0,
            "retry_max": 300.0,
            "retry_horizon": 3 * DAY,
            "late_after": DAY,
            "probe_every": 30.0,
            "bulk_unset": False,
            "reconfirm_after": 30 * DAY,
        },
    ),
    (
        Config().retention,
        {
            "timeline": 30 * DAY,
            "held": 30 * DAY,
            "dead_letters": 90 * DAY,
            "event_ids": 90 * DAY,
            "action_keys": 400 * DAY,
            "audit": 400 * DAY,
        },
    ),
    (Notify(), {"url": SecretStr(""), "format": "json", "patience": 600.0}),
    (
        Connection(name="acme", source="yotpo"),
        {
            "name": "acme",
            "source": "yotpo",
            "enabled": True,
            "mode": "live",
            "mapping": Path("mappings/yotpo.toml"),
            "modules": ("events", "profiles", "audiences", "segments", "actions"),
            "email_change": "new",
            "on_leave": "keep",
            "settings": {},
            "audiences": (),
            "segments": (),
            "tiers": (),
            "rewards": (),
            "actions": None,
        },
    ),
    (
        Klaviyo(),
        {
            "base_url": "https://a.klaviyo.com",
            "auth": "private-key",
            "private_key": SecretStr(""),
            "revision": "2026-10-15",
            "rate_share": 0.0,
            "live_reserve": 0.3,
            "flow_guard": "ask",
            "authorize_url": "https://www.klaviyo.com/oauth/authorize",
            "token_url": "https://a.klaviyo.com/oauth/token",
            "revoke_url": "https://a.klaviyo.com/oauth/revoke",
            "install_probe": None,
        },
    ),
    (
        Audience(audience="vip", list="VIP members"),
        {
            "audience": "vip",
            "list": "VIP members",
            "create_list": True,
            "every": 900.0,
            "foreign_members": "keep",
            "on_manual_removal": "report",
            "max_leave_share": 0.3,
            "max_leave_floor": 50,
        },
    ),
    (
        Segment(segment="Xy12Ab", target="winback-spring"),
        {
            "segment": "Xy12Ab",
            "target": "winback-spring",
            "every": 600.0,
            "on_join": (),
            "on_join_existing": False,
            "max_leave_share": 0.3,
            "max_leave_floor": 50,
        },
    ),
    (
        Actions(),
        {
            "secret": (),
            "max_amount": 10000,
            "daily_per_person": 20,
            "daily_total": 0,
            "dedupe_window": 90000.0,
            "look_ups": (0.0, 60.0, 600.0),
            "retry_statuses": (423, 429, 503),
            "unknown_person_grace": 900.0,
        },
    ),
    (
        Settings(program="demo"),
        {
            "poll_every": 300.0,
            "max_concurrency": 8,
            "base_url": "https://api.jericommerce.com",
            "program": "demo",
            "api_key": SecretStr(""),
            "webhook_secret": (),
            "webhook_encoding": "auto",
            "link_base_url": "https://jeri.link",
            "push_url": "https://api.jericommerce.com/v1/push",
            "push_auth": "bearer",
            "segment_feature": "segments",
            "segment_batch": 100,
            "pass_token_expires_in": "",
            "pass_url_refresh": None,
            "rate_per_second": 5,
        },
    ),
]


@pytest.mark.parametrize(
    ("found", "expected"), EXPECTED, ids=[type(model).__name__ for model, _ in EXPECTED]
)
def test_defaults(found: BaseModel, expected: dict[str, object]) -> None:
    plain = {key: value for key, value in found if not isinstance(value, BaseModel)}
    assert plain == expected


@pytest.mark.parametrize(
    ("auth", "share", "expected"),
    [("private-key", 0, 0.6), ("oauth", 0, 0.9), ("oauth", 0.5, 0.5), ("private-key", 1, 1)],
)
def test_effective_rate_share(auth: str, share: float, expected: float) -> None:
    klaviyo = Klaviyo.model_validate({"auth": auth, "rate_share": share})
    assert klaviyo.effective_rate_share == expected


@pytest.mark.parametrize(
    ("server", "found"),
    [
        ("port = 9030", "http://127.0.0.1:9030"),
        ("port = 0", "http://127.0.0.1:8787"),
        ('port = 9030\npublic_url = "http://localhost"', "http://localhost"),
        ('port = 9030\npublic_url = "http://127.0.0.1:8787"', "http://127.0.0.1:8787"),
    ],
)
def test_the_public_url_follows_the_port(read: Loader, server: str, found: str) -> None:
    assert read(f"[server]\n{server}\n").server.public_url == found
