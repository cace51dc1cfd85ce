"""What each operation of the API gets: the caller, the service, paging."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Path, Query, Request
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel, ConfigDict, model_validator

from connector.config import Config
from connector.domain.lanes import MAX_ID
from connector.ports import ActionPosition, StuckPosition
from connector.runtime.changes import ChangeFeed
from connector.runtime.encryption import Seal
from connector.service import Commands
from connector.service.webhook_builder import FlowTarget
from connector.web.access import Access, Principal
from connector.web.api.problems import ApiError
from connector.web.storable import is_storable, read_id
from connector.web.stuck_position import read_position

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ApiServices:
    """What the API works with."""

    commands: Commands
    access: Access
    changes: ChangeFeed
    seal: Seal
    config: Callable[[], Config]
    """The configuration in effect."""
    flow_target: Callable[[str], FlowTarget]
    """Connection → what its flows call. Raises KeyError, and InvalidStep where it takes no flow
    calls."""


def services(request: Request) -> ApiServices:
    found: ApiServices = request.state.services
    return found


Services = Annotated[ApiServices, Depends(services)]


def viewer(request: Request, services: Services) -> Principal:
    """Whoever may read. Raises AccessDenied."""
    return services.access.identify(request)


def operator(request: Request, services: Services) -> Principal:
    """Whoever may change something. Raises AccessDenied."""
    principal = services.access.identify(request)
    services.access.check_change(request, principal)
    return principal


def _query_keys(dependant: Dependant) -> set[str]:
    keys = {field.alias for field in dependant.query_params}
    return keys.union(*map(_query_keys, dependant.dependencies))


def only_known_query(request: Request) -> None:
    """Raises ApiError (422) for a query key that the operation does not have: a misspelt filter
    would mean more than was wanted."""
    known = _query_keys(request.scope["route"].dependant)
    if unknown := [key for key in request.query_params if key not in known]:
        allowed = ", ".join(sorted(known)) or "none"
        faults = [f"query.{key[:40]}: unknown, allowed {allowed}" for key in unknown]
        raise ApiError(422, "the request is not valid", faults=faults)


Viewer = Annotated[Principal, Depends(viewer)]
Operator = Annotated[Principal, Depends(operator)]


Id = Annotated[int, Path(ge=1, le=MAX_ID)]


class Input(BaseModel):
    """A body that a caller sends. A key that is not known is refused: a misspelt one could mean
    more than was wanted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, data: Any) -> Any:
        if not is_storable(data):
            raise ValueError("a text has a character that cannot be stored")
        return data


class Page(BaseModel, Generic[T]):
    """Items of a list. `next` is the `cursor` of the next page, None at the end."""

    items: list[T]
    next: str | None = None


_CursorText = Annotated[str | None, Query(max_length=200)]


def _read_position(cursor: str) -> tuple[str, int]:
    """(part of the list, id of the last item); the part is empty where a list has one."""
    try:
        text = urlsafe_b64decode(cursor.encode() + b"==").decode()
        part, _, id = text.rpartition(":")
        return part, read_id(id)
    except ValueError:
        raise ApiError(400, "`cursor` is not one of this list: leave it out") from None


def read_cursor(cursor: _CursorText = None) -> int | None:
    """The id after which the page begins."""
    if cursor is None:
        return None
    part, id = _read_position(cursor)
    if part:
        raise ApiError(400, "`cursor` is not one of this list: leave it out")
    return id


def read_action_cursor(cursor: _CursorText = None) -> ActionPosition | None:
    """The action after which the page begins."""
    if cursor is None:
        return None
    part, id = _read_position(cursor)
    if part not in ("stuck", "other"):
        raise ApiError(400, "`cursor` is not one of this list: leave it out")
    return ActionPosition(id, stuck=part == "stuck")


def read_stuck_cursor(cursor: _CursorText = None) -> StuckPosition | None:
    """The person after which the page begins."""
    if cursor is None:
        return None
    try:
        return read_position("{}:{}".format(*_read_position(cursor)))
    except ValueError:
        raise ApiError(400, "`cursor` is not one of this list: leave it out") from None


def write_cursor(last: int, part: str = "") -> str:
    text = f"{part}:{last}" if part else str(last)
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


Cursor = Annotated[int | None, Depends(read_cursor)]
ActionCursor = Annotated[ActionPosition | None, Depends(read_action_cursor)]
StuckCursor = Annotated[StuckPosition | None, Depends(read_stuck_cursor)]
Limit = Annotated[int, Query(ge=1, le=200, description="Items of a page.")]
