"""`connector problem`: what a problem code means and what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from connector.cli import session


def register(app: typer.Typer) -> None:
    app.command()(problem)


def problem(
    code: Annotated[str, typer.Argument(help="The code, such as K401.")],
) -> None:
    """Explain a problem code. What happened, what it affects, what to do; works offline."""
    from connector.tools.problem_pages import page

    found = session.known_problem(code)
    print(f"{found}: {found.meaning}")
    print(f"meanwhile: {found.effect}")
    print(f"what to do: {found.remedy}")
    print(f"\n{page(found)}")
