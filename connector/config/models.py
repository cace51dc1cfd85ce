"""Every key of connector.toml above the connections, with its default and its meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, SecretStr

from connector.config.connections import Connection
from connector.config.values import (
    Allowed,
    Duration,
    DurationOrNever,
    PositiveDuration,
    Secrets,
    Section,
    Size,
    Url,
    setting,
)


class Store(Section):
    """`[store]`: where everything is kept. `url` may hold a password: never log it."""

    url: Annotated[str, Allowed("sqlite:///path or postgresql://user:password@host/database")] = (
        setting(
            "sqlite:///state/connector.db",
            "An SQLite file, or PostgreSQL for several replicas.",
            env="CONNECTOR_STORE_URL",
            repr=False,
        )
    )
    migrate: Literal["auto", "manual"] = setting(
        "auto",
        "auto brings an older schema up to date (an SQLite file is copied first); with manual "
        "run exits 2.",
    )
    min_free: Size = setting(
        "512MB", "With less free disk intake answers 503, while deliveries go on."
    )


class Server(Section):
    """`[server]`: where this process listens and how others reach it."""

    host: Annotated[str, Field(min_length=1)] = setting(
        "127.0.0.1", "The address to listen on.", env="CONNECTOR_HOST"
    )
    port: Annotated[int, Field(ge=0, le=65535)] = setting(
        8787, "The port to listen on; 0 is any free one."
    )
    admin_port: Annotated[int, Field(ge=0, le=65535)] = setting(
        0,
        "A port of their own for console, /api and /metrics, so that an ingress can publish the "
        "rest; 0 shares the other.",
    )
    public_url: Url = setting(
        "http://127.0.0.1:8787", "How Klaviyo and the platforms reach this server."
    )
    shutdown_timeout: Duration = setting("20s", "How long work in flight may take to finish.")


class Console(Section):
    """`[console]`: who may use the console and the API."""

    password: Secrets = setting(
        (),
        "Opens everything; without it only this machine is let in.",
        env="CONNECTOR_CONSOLE_PASSWORD",
    )
    viewer_password: Secrets = setting((), "Opens the console for looking only.")
    api_tokens: Secrets = setting((), "Bearer tokens for the API.")


class Security(Section):
    """`[security]`."""

    allow_http: tuple[str, ...] = setting(
        (), "Hosts, besides this machine, that may be called without TLS."
    )
    encryption_key: Annotated[
        Secrets, Allowed("a Fernet key (32 bytes in URL-safe base64), or a list of them")
    ] = setting(
        (),
        "Locks what is stored secret: OAuth tokens, and keys entered in the console. Required "
        "once such a thing exists.",
        env="CONNECTOR_ENCRYPTION_KEY",
    )


class KlaviyoApp(Section):
    """`[klaviyo_app]`: our app at Klaviyo, only for OAuth."""

    client_id: str = setting("", "The app's id.", env="KLAVIYO_CLIENT_ID")
    client_secret: SecretStr = setting("", "The app's secret.", env="KLAVIYO_CLIENT_SECRET")


class Log(Section):
    """`[log]`: what goes to stderr."""

    format: Literal["console", "json"] = setting("console", "Lines for people or for machines.")
    level: Literal["debug", "info", "warning", "error"] = setting("info", "The least that is said.")


class Delivery(Section):
    """`[delivery]`: how records leave."""

    bulk_threshold: Annotated[int, Field(ge=1)] = setting(
        50, "More ready records than this go in bulk, fewer one by one."
    )
    attach_wait: Duration = setting(
        "1s", "How long an event may wait for its person's fresh fields."
    )
    retry_base: PositiveDuration = setting("1s", "The first pause before a retry.")
    retry_max: PositiveDuration = setting("5m", "The longest pause before a retry.")
    retry_horizon: PositiveDuration = setting(
        "3d", "Retried for this long, counted only while the lane runs; then a dead letter."
    )
    late_after: DurationOrNever = setting(
        "24h", "An event older than this at delivery is sent with backfill = true: no flow starts."
    )
    probe_every: PositiveDuration = setting(
        "30s", "How often a paused lane or account is tried again."
    )
    bulk_unset: bool = setting(
        False,
        "Let the bulk import clear fields: not in this version, for nobody has seen Klaviyo do it.",
    )
    reconfirm_after: Duration = setting(
        "30d", "A field accepted longer ago is sent again with the next observation."
    )


class Retention(Section):
    """`[retention]`: how long each thing is kept."""

    timeline: PositiveDuration = setting("30d", "What happened to a person's records.")
    held: PositiveDuration = setting("30d", "Records that wait for an address.")
    dead_letters: PositiveDuration = setting("90d", "Records that will not be delivered.")
    event_ids: PositiveDuration = setting("90d", "Ids by which a repeated event is known.")
    action_keys: PositiveDuration = setting("400d", "Keys by which a repeated action is known.")
    audit: PositiveDuration = setting("400d", "Who ordered what.")


class Notify(Section):
    """`[[notify]]`: one POST when something needs a person. `url` may itself be a credential."""

    url: SecretStr = setting(
        "",
        "Where to POST when a connection breaks or recovers, needs approval, has an uncertain "
        "action or a first dead letter; empty is off.",
    )
    format: Literal["json", "slack"] = setting("json", "The shape of the body.")


class Config(Section):
    """The whole file, frozen. Built by `load`; `Config()` holds the defaults alone."""

    include: tuple[str, ...] = setting(
        ("connections.d/*.toml",), "Further files: tables merge, connections are appended."
    )
    store: Store = Field(default_factory=Store, description="Where everything is kept.")
    server: Server = Field(default_factory=Server, description="Where this process listens.")
    console: Console = Field(default_factory=Console, description="Who may use the console.")
    security: Security = Field(default_factory=Security, description="Keys and exceptions.")
    klaviyo_app: KlaviyoApp = Field(
        default_factory=KlaviyoApp, description="Our app at Klaviyo, only for OAuth."
    )
    log: Log = Field(default_factory=Log, description="What goes to stderr.")
    delivery: Delivery = Field(default_factory=Delivery, description="How records leave.")
    retention: Retention = Field(
        default_factory=Retention, description="How long each thing is kept."
    )
    notify: tuple[Notify, ...] = setting((), "Whom to tell when something needs a person.")
    connections: tuple[Connection, ...] = setting((), "What is connected with what.")

    _files: tuple[Path, ...] = PrivateAttr(default=())
    _written: frozenset[str] = PrivateAttr(default=frozenset())

    @property
    def files(self) -> tuple[Path, ...]:
        """The files read, absolute, the main one first; empty when built without a file."""
        return self._files

    def is_set(self, key: str) -> bool:
        """Whether a file sets this dotted key, such as `connections.acme.modules`."""
        return key in self._written

    def connection(self, name: str) -> Connection:
        """The connection of that name. KeyError when there is none."""
        for connection in self.connections:
            if connection.name == name:
                return connection
        raise KeyError(name)
