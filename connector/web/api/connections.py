"""`/connections`: what is configured, and what may be changed at run time."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field, model_validator

from connector.config import dotted_key
from connector.config.connections import Module
from connector.domain.errors import ConnectorError
from connector.service.setting_secrets import seal_secrets
from connector.service.status import ConnectionStatus
from connector.web.api.context import ApiServices, Input, Page, Services, Viewer
from connector.web.api.orders import ACCEPTED, CommandView, Order
from connector.web.api.problems import RESPONSES, ApiError

router = APIRouter(prefix="/connections", tags=["connections"], responses=RESPONSES)


class SettingView(BaseModel):
    """A setting that was made at run time; the value of a secret is `***`. Times in ms since
    1970."""

    key: str
    value: Any
    changed_by: str
    changed_at: int


class ConnectionView(BaseModel):
    """A connection as it is in effect. `audiences` and `segments` are its links, as in the
    configuration; `settings` are those made at run time."""

    name: str
    title: str
    source: str
    enabled: bool
    paused: bool
    mode: str
    modules: list[str]
    audiences: list[dict[str, Any]]
    segments: list[dict[str, Any]]
    settings: list[SettingView]


class ConnectionChange(Input):
    """Either `paused`, or settings: a value as in `connector.toml`, or null to remove what was set
    at run time. A key that a file sets has to be changed there."""

    paused: bool | None = None
    enabled: bool | None = None
    mode: Literal["live", "shadow"] | None = None
    modules: list[Module] | None = None
    audiences: list[dict[str, Any]] | None = None
    segments: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> ConnectionChange:
        if self.paused is not None and self.model_fields_set == {"paused"}:
            return self
        if not self.model_fields_set or "paused" in self.model_fields_set:
            raise ValueError("give either `paused` (true or false) or settings")
        return self

    def command(self, connection: str) -> tuple[str, dict[str, Any]]:
        """The kind of the command that makes the change, and its arguments."""
        if self.paused is not None:
            return "pause" if self.paused else "resume", {"connection": connection}
        given = self.model_dump(exclude_unset=True)
        wanted = {key: value for key, value in given.items() if value is not None}
        removed = [key for key, value in given.items() if value is None]
        return "settings", {"connection": connection, "set": wanted, "unset": removed}


class KlaviyoAccess(Input):
    """How Klaviyo is reached. With `oauth` a person connects the account afterwards."""

    auth: Literal["private-key", "oauth"] | None = None
    private_key: str | None = None


class NewConnection(Input):
    """A connection as in `connector.toml`. One that is not `enabled` may lack what it needs to
    run."""

    name: str
    source: str
    enabled: bool = True
    mode: Literal["live", "shadow"] | None = None
    modules: list[Module] | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    klaviyo: KlaviyoAccess = Field(default_factory=KlaviyoAccess)
    actions: dict[str, Any] = Field(default_factory=dict)
    audiences: list[dict[str, Any]] | None = None
    segments: list[dict[str, Any]] | None = None
    tiers: list[dict[str, Any]] | None = None
    rewards: list[dict[str, Any]] | None = None

    def changes(self) -> dict[str, Any]:
        """Its settings by dotted key."""
        found: dict[str, Any] = {}
        for key, value in self.model_dump(exclude={"name", "source"}).items():
            if isinstance(value, dict):
                inner = {dotted_key((key, name)): item for name, item in value.items()}
                found |= {name: item for name, item in inner.items() if item is not None}
            elif value is not None:
                found[key] = value
        return found


@router.get("")
async def list_connections(services: Services, caller: Viewer) -> Page[ConnectionView]:
    """Connections that run, or have run on this store."""
    status = await services.commands.latest_status()
    return Page(
        items=[await _view(services, name, found) for name, found in status.connections.items()]
    )


@router.post("", responses=ACCEPTED)
async def add_connection(wanted: NewConnection, services: Services, order: Order) -> CommandView:
    """Make a connection. It is validated as a file is, stored below the files with its secrets
    encrypted, and runs when the command is done."""
    changes = wanted.changes()
    try:
        sealed = seal_secrets(services.config(), wanted.name, changes, wanted.source)
    except ConnectorError as error:
        raise ApiError(409, error.detail) from None
    args = {"connection": wanted.name, "source": wanted.source, "set": sealed}
    return await order.run("add-connection", args)


@router.patch("/{name}", responses=ACCEPTED)
async def change_connection(
    name: str, change: ConnectionChange, services: Services, order: Order
) -> CommandView:
    """Pause or resume all lanes of a connection, or change its settings, all of them or none. They
    are in effect when the command is done."""
    if name not in await services.commands.connection_names():
        raise ApiError(404, f"there is no connection {name!r}")
    return await order.run(*change.command(name))


async def _view(services: ApiServices, name: str, found: ConnectionStatus) -> ConnectionView:
    try:
        configured = services.config().connection(name)
    except KeyError:
        audiences, segments = [], []  # it was removed, and its records remain
    else:
        audiences = [link.model_dump(mode="json") for link in configured.audiences]
        segments = [link.model_dump(mode="json") for link in configured.segments]
    return ConnectionView(
        name=name,
        **found.model_dump(include={"title", "source", "enabled", "mode", "modules"}),
        paused=bool(found.lanes) and all(lane.state == "paused" for lane in found.lanes),
        audiences=audiences,
        segments=segments,
        settings=[
            SettingView(key=s.key, value=s.value, changed_by=s.changed_by, changed_at=s.changed_at)
            for s in await services.commands.settings(name)
        ],
    )
