"""`connector support-bundle`: what somebody who helps needs to know."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from connector.cli import session

if TYPE_CHECKING:
    from connector.config import Config
    from connector.tools.support import Fetch


def register(app: typer.Typer) -> None:
    app.command("support-bundle")(support_bundle)


def support_bundle(context: typer.Context, file: Path) -> None:
    """A zip for whoever helps, with no secret in it. Versions, configuration and state."""
    from connector.app.daemon import read_config
    from connector.runtime import log
    from connector.tools.support import bundle, write

    log.configure(level="critical")
    archive = session.run(bundle(lambda: read_config(context.obj), _asks))
    write(file, archive)
    print(
        f"{file}: {len(archive):,} bytes; secrets and addresses are masked, look through it still"
    )


def _asks(config: Config) -> Fetch:
    server = config.server
    admin = server.model_copy(update={"port": server.admin_port or server.port})
    return partial(session.fetch, admin)
