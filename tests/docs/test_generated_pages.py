"""The generated pages match the code, and the CLI reference is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from connector.cli import app
from connector.cli.reference import reference

from .generated_pages import generated_pages

PAGES = generated_pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_generated_page_is_current(path: Path) -> None:
    """Fix: .venv/bin/python -m tests.docs.generated_pages"""
    assert path.read_text(encoding="utf-8") == PAGES[path]


def test_the_cli_reference_has_every_command_argument_and_option() -> None:
    text = reference(app)

    def check(command: Any, name: str) -> None:
        for word, inner in getattr(command, "commands", {}).items():
            check(inner, f"{name} {word}")
        if not hasattr(command, "commands"):
            _, _, section = text.partition(f"\n## {name}\n")
            section = section.partition("\n## ")[0]
            assert command.help
            for parameter in command.params:
                is_option = parameter.param_type_name == "option"
                shown = parameter.opts[0] if is_option else parameter.name.upper()
                assert parameter.help, f"{name} {shown}"
                assert shown in section, f"{name} {shown}"

    check(typer.main.get_command(app), "connector")


def test_an_app_without_commands_has_no_reference() -> None:
    app = typer.Typer(add_completion=False)
    app.command()(lambda: None)
    with pytest.raises(TypeError):
        reference(app)
