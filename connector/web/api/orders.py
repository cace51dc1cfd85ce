"""Operations that change something: commands, carried out by the process that holds the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Response
from pydantic import BaseModel

from connector.ports import Command, KeyReused
from connector.web.api.context import Id, Operator, Services, Viewer
from connector.web.api.problems import RESPONSES, ApiError

router = APIRouter(prefix="/commands", tags=["commands"], responses=RESPONSES)


class CommandView(BaseModel):
    """A command and its result. While it runs, `result` says how far it has come, as far as it can:
    `{"done": 2000, "total": 21400}`."""

    id: int
    state: Literal["running", "done"]
    result: dict[str, Any]


ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"model": CommandView, "description": "It runs on; ask `GET /commands/{id}`."}
}


@router.get("/{id}")
async def show_command(id: Id, services: Services, caller: Viewer) -> CommandView:
    """A command that was submitted here. One that failed is answered with 409 and its error."""
    command = await services.commands.command(id)
    if command is None:
        raise ApiError(404, f"there is no command {id}")
    return _view(command)


class Ordering:
    """Submits commands in the caller's name. With an `Idempotency-Key` a repeated request is
    answered as the first one was, also by another replica and after a restart."""

    def __init__(
        self,
        services: Services,
        caller: Operator,
        response: Response,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    ) -> None:
        self.by = caller.name
        self._commands = services.commands
        self._response = response
        self._key = idempotency_key or ""

    async def run(self, kind: str, args: Mapping[str, Any]) -> CommandView:
        """The answer is 202 while the command runs. Raises ApiError: 409 where it was not possible,
        422 for settings that are not valid and for a key that was used for another command."""
        try:
            command = await self._commands.submit_and_wait(kind, args, by=self.by, key=self._key)
        except KeyReused:
            detail = "this `Idempotency-Key` was used for another request: use a new one"
            raise ApiError(422, detail) from None
        if command.ok is None:
            self._response.status_code = 202
            self._response.headers["location"] = f"/api/v1/commands/{command.id}"
        return _view(command)


Order = Annotated[Ordering, Depends()]


def _view(command: Command) -> CommandView:
    result = dict(command.result or {})
    if command.ok is False:
        if faults := result.get("faults"):
            raise ApiError(422, "the settings are not valid", faults=faults)
        raise ApiError(409, str(result.get("error", "it failed: see the log")))
    state: Literal["running", "done"] = "done" if command.ok else "running"
    return CommandView(id=command.id, state=state, result=result)
