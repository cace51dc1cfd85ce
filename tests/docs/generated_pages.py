"""The pages in docs/ that are generated from the code. Write them with

.venv/bin/python -m tests.docs.generated_pages
"""

from __future__ import annotations

from pathlib import Path

from connector.cli import app
from connector.cli.json_reference import reference as json_reference
from connector.cli.reference import reference as cli_reference
from connector.config import reference as config_reference
from connector.platforms import registry
from tests.paths import ROOT

SHIPPED_PLATFORMS = ("http", "jericommerce", "wll", "yotpo")


def generated_pages() -> dict[Path, str]:
    """The path and the current text of each generated page."""
    models = {source: registry.load(source).settings for source in SHIPPED_PLATFORMS}
    return {
        ROOT / "docs" / "cli.md": cli_reference(app),
        ROOT / "docs" / "json.md": json_reference(),
        ROOT / "docs" / "configuration.md": config_reference(models),
    }


if __name__ == "__main__":
    for path, text in generated_pages().items():
        path.write_text(text, encoding="utf-8")
