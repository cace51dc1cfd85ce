"""`connector support-bundle`: a zip file for support."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from connector.cli import session

if TYPE_CHECKING:
    from connector.config import Config
    from connector.tools.support import Fetch


def register(app: typer.Typer) -> None:
    app.command("support-bundle")(support_bundle)


def support_bundle(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The zip file to write; must not exist.")],
) -> None:
    """Write a zip for support, with secrets masked. Versions, configuration and state."""
    from connector.domain.errors import ConfigError
    from connector.runtime import log
    from connector.tools.support import bundle, write

    found: Config | ConfigError
    try:
        found = session.read(context.obj)
    except ConfigError as error:
        found = error

    def read() -> Config:
        if isinstance(found, ConfigError):
            raise found
        return found

    log.configure(level="critical")
    archive = session.run(bundle(read, _fetch))
    write(file, archive)
    print(
        f"{file}: {len(archive):,} bytes; secrets and addresses are masked, review it all the same"
    )


def _fetch(config: Config) -> Fetch:
    server = config.server
    admin = server.model_copy(update={"port": server.admin_port or server.port})
    return partial(session.fetch, admin)
