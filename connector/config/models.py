"""The keys of connector.toml outside the connections, with default and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, PrivateAttr, SecretStr, TypeAdapter, model_validator

from connector.config.connections import Connection
from connector.config.values import (
    Allowed,
    Duration,
    DurationOrNever,
    Network,
    PositiveDuration,
    Secrets,
    Section,
    Size,
    Url,
    setting,
)


class Store(Section):
    """`[store]`: the database. `url` may contain a password: never log it."""

    url: Annotated[str, Allowed("sqlite:///path or postgresql://user:password@host/database")] = (
        setting(
            "sqlite:///state/connector.db",
            "The database: an SQLite file, or PostgreSQL for several replicas; with "
            "?pooler=transaction where PgBouncer is between.",
            env="CONNECTOR_STORE_URL",
            repr=False,
        )
    )
    listen_url: Annotated[str, Allowed("postgresql://user:password@host/database, or empty")] = (
        setting(
            "",
            "The database itself, where url leads through a pooler: there replicas wake each other "
            "at once, by LISTEN, instead of looking every second.",
            env="CONNECTOR_STORE_LISTEN_URL",
            repr=False,
        )
    )
    migrate: Literal["auto", "manual"] = setting(
        "auto",
        "auto migrates an older schema at start (an SQLite file is copied first); with manual, run "
        "exits with code 2.",
    )
    min_free: Size = setting(
        "512MB", "With less free disk space, webhooks are answered 503; deliveries continue."
    )

    @property
    def identity(self) -> str:
        """Names the store without showing where it is."""
        return sha256(self.url.encode()).hexdigest()[:16]


class Server(Section):
    """`[server]`: where this process listens and how it is reached."""

    host: Annotated[str, Field(min_length=1)] = setting(
        "127.0.0.1", "The address to listen on.", env="CONNECTOR_HOST"
    )
    port: Annotated[int, Field(ge=0, le=65535)] = setting(
        8787, "The port to listen on. 0: any free port."
    )
    admin_port: Annotated[int, Field(ge=0, le=65535)] = setting(
        0,
        "A separate port for console, /api and /metrics, so that an ingress can publish the other "
        "one. 0: one port for all.",
    )
    public_url: Url = setting(
        "http://127.0.0.1:8787",
        "The URL at which Klaviyo and the platforms reach this server. Without it: 127.0.0.1, and "
        "port.",
    )
    shutdown_timeout: Duration = setting("20s", "How long a stop waits for requests in flight.")
    drain_delay: Duration = setting(
        "0s",
        "How long a stop keeps the port open at least, so that a load balancer notices /readyz; at "
        "most shutdown_timeout.",
    )
    max_header: Annotated[Size, Field(ge=1024)] = setting(
        "32KB", "The largest request line and headers of a request; above: 431."
    )
    header_timeout: PositiveDuration = setting(
        "10s", "How long a caller may take for the headers of a request; then 408."
    )
    body_timeout: PositiveDuration = setting(
        "30s", "How long a caller may take for the body of a request; then 408."
    )
    max_connections: Annotated[int, Field(ge=1)] = setting(
        1000, "How many connections may be open on a port; above: 503."
    )
    trusted_proxies: tuple[Network, ...] = setting(
        (),
        "Addresses or networks of reverse proxies whose last X-Forwarded-For entry is the caller. "
        "All other callers are throttled by their own address.",
    )

    @model_validator(mode="after")
    def _reach_at_port(self) -> Self:
        if self.port and "public_url" not in self.model_fields_set:
            self.__dict__["public_url"] = f"http://127.0.0.1:{self.port}"  # the model is frozen
        return self


Role = Literal["viewer", "operator"]
"""What a person or a script may do: look, or also change."""


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A bearer token: the name that the audit shows, and the role."""

    name: str
    role: Role
    token: SecretStr


class Console(Section):
    """`[console]`: passwords and tokens of the console and the API."""

    password: Secrets = setting(
        (),
        "The operator's password, or an Argon2 hash of it. Without it, only requests from this "
        "machine are allowed.",
        env="CONNECTOR_CONSOLE_PASSWORD",
    )
    viewer_password: Secrets = setting((), "A password for read-only access.")
    api_tokens: Annotated[
        Secrets, Allowed('a list of "name:role:token", role viewer or operator')
    ] = setting((), "Bearer tokens for the API.")
    session: PositiveDuration = setting("12h", "How long a sign-in is valid.")

    @property
    def tokens(self) -> tuple[ApiToken, ...]:
        """`api_tokens`, parsed. Raises ValueError for one of another form."""
        return tuple(_api_token(secret.get_secret_value()) for secret in self.api_tokens)


def _api_token(text: str) -> ApiToken:
    name, role, token = text.split(":", 2)
    if not name or not token:
        raise ValueError("without a name or a token")
    return ApiToken(name, TypeAdapter[Role](Role).validate_python(role), SecretStr(token))


class Security(Section):
    """`[security]`: TLS exceptions and the encryption key."""

    allow_http: tuple[str, ...] = setting(
        (), "Hosts, besides this machine, that may be called without TLS."
    )
    encryption_key: Annotated[
        Secrets, Allowed("a Fernet key (32 bytes in URL-safe base64), or a list of them")
    ] = setting(
        (),
        "Encrypts secrets in the store: OAuth tokens, and keys entered in the console. Required "
        "once there is one.",
        env="CONNECTOR_ENCRYPTION_KEY",
    )


class KlaviyoApp(Section):
    """`[klaviyo_app]`: the OAuth app at Klaviyo."""

    client_id: str = setting("", "The app's id.", env="KLAVIYO_CLIENT_ID")
    client_secret: SecretStr = setting("", "The app's secret.", env="KLAVIYO_CLIENT_SECRET")


class Log(Section):
    """`[log]`: what is written to stderr."""

    format: Literal["console", "json"] = setting("console", "Lines for people or JSON.")
    level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "The lowest level to log."
    )


class Delivery(Section):
    """`[delivery]`: how records are delivered."""

    bulk_threshold: Annotated[int, Field(ge=1)] = setting(
        50, "If more records than this are ready, they are sent in bulk; else one by one."
    )
    attach_wait: Duration = setting(
        "1s", "How long an event may wait for its person's fresh fields; 0s: not at all."
    )
    attach_wait_max: Duration = setting(
        "5s", "The same while reads take longer: the wait follows them up to this."
    )
    retry_base: PositiveDuration = setting("1s", "The first delay before a retry.")
    retry_max: PositiveDuration = setting("5m", "The longest delay before a retry.")
    retry_horizon: PositiveDuration = setting(
        "3d",
        "How long a record is retried, counted while its lane runs, before it becomes a dead "
        "letter.",
    )
    late_after: DurationOrNever = setting(
        "24h",
        "An event older than this at delivery is sent with backfill = true, so it starts no flow.",
    )
    probe_every: PositiveDuration = setting(
        "30s", "How often a held or blocked lane or account is tried again."
    )
    bulk_unset: bool = setting(
        False,
        "Let the bulk import clear fields. Must be false: it is not verified at Klaviyo.",
    )
    reconfirm_after: Duration = setting(
        "30d", "A field accepted longer ago than this is sent again with the next observation."
    )


class Retention(Section):
    """`[retention]`: how long data is kept."""

    timeline: PositiveDuration = setting("30d", "The history of a person's records.")
    held: PositiveDuration = setting("30d", "Held records, which wait for an address.")
    dead_letters: PositiveDuration = setting("90d", "Dead letters.")
    event_ids: PositiveDuration = setting(
        "90d", "Ids of received events, to recognise a repeated event."
    )
    action_keys: PositiveDuration = setting(
        "400d", "Keys of actions, to recognise a repeated action."
    )
    audit: PositiveDuration = setting("400d", "The audit log: who ran which command.")


class Notify(Section):
    """`[[notify]]`: one POST when something needs a person. `url` may be a credential."""

    url: SecretStr = setting(
        "",
        "Where to POST when a connection breaks or recovers, needs approval, has an uncertain "
        "action or a first dead letter. Empty: off.",
    )
    format: Literal["json", "slack"] = setting("json", "The format of the body.")
    patience: Duration = setting(
        "10m",
        "How long Klaviyo or a platform may be away or limit requests before it is sent. "
        "`/healthz` uses the shortest patience of all targets, or 10m.",
    )


class Config(Section):
    """The whole configuration, frozen. Built by `load`; `Config()` has the defaults."""

    include: tuple[str, ...] = setting(
        ("connections.d/*.toml",), "More files: tables are merged, connections are appended."
    )
    store: Store = Field(default_factory=Store, description="The database.")
    server: Server = Field(default_factory=Server, description="Where this process listens.")
    console: Console = Field(
        default_factory=Console, description="Passwords and tokens of the console."
    )
    security: Security = Field(
        default_factory=Security, description="TLS exceptions and the encryption key."
    )
    klaviyo_app: KlaviyoApp = Field(
        default_factory=KlaviyoApp, description="The OAuth app at Klaviyo."
    )
    log: Log = Field(default_factory=Log, description="What is written to stderr.")
    delivery: Delivery = Field(default_factory=Delivery, description="How records are delivered.")
    retention: Retention = Field(default_factory=Retention, description="How long data is kept.")
    notify: tuple[Notify, ...] = setting(
        (), "Where to send notifications when something needs a person."
    )
    connections: tuple[Connection, ...] = setting((), "The connections.")

    _files: tuple[Path, ...] = PrivateAttr(default=())
    _written: frozenset[str] = PrivateAttr(default=frozenset())
    _loaded: Any = PrivateAttr(default=None)
    _faults: tuple[str, ...] = PrivateAttr(default=())

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that were read, absolute, the main file first; empty without a file."""
        return self._files

    @property
    def faults(self) -> tuple[str, ...]:
        """Why this is only a part of the files: see connector.config.salvage. Usually empty."""
        return self._faults

    def is_set(self, key: str) -> bool:
        """Whether a file sets this dotted key, such as `connections.acme.modules`."""
        return key in self._written

    @property
    def overrides(self) -> tuple[Any, ...]:
        """The settings made at run time that it was loaded with (connector.config.overrides)."""
        return self._loaded.overrides if self._loaded else ()

    def origin(self, key: str) -> Literal["file", "run time", "default"]:
        """Where the value of a dotted key such as `connections.acme.modules` comes from."""
        if self.is_set(key):
            return "file"
        effective = self._loaded.applied.effective if self._loaded else ()
        at_run_time = (f"connections.{o.connection}.{o.dotted}" for o in effective)
        return "run time" if key in at_run_time else "default"

    def settings_model(self, source: str) -> type[BaseModel] | None:
        """What validates `[connections.settings]` of this platform, as far as it is known."""
        models = self._loaded.settings_models if self._loaded else None
        return models.get(source) if models is not None else None

    def connection(self, name: str) -> Connection:
        """The connection of this name. Raises KeyError."""
        for connection in self.connections:
            if connection.name == name:
                return connection
        raise KeyError(name)
