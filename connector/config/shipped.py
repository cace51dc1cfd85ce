"""Where the mapping files that come with the connector are."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "shipped" / "mappings"
CHECKOUT = Path(__file__).parents[2] / "mappings"


def shipped_mappings() -> Path:
    """The folder of the shipped mapping files: in the wheel, or in a checkout."""
    return SHIPPED if SHIPPED.is_dir() else CHECKOUT
