"""Free pages of an SQLite file, returned to the disk."""

from __future__ import annotations

from sqlalchemy import Connection

_FREE_RESERVE = 0.1
"""The share of free pages that stays for new rows."""


def free_pages(c: Connection, pages: int) -> int:
    """Return up to `pages` free pages to the disk while more than a tenth of the file is free; how
    many were returned. Always 0 on PostgreSQL, which vacuums by itself."""
    if c.dialect.name != "sqlite":
        return 0

    def number(pragma: str) -> int:
        return int(c.exec_driver_sql(f"PRAGMA {pragma}").scalar_one())

    free = number("freelist_count")
    surplus = free - round(number("page_count") * _FREE_RESERVE)
    if surplus <= 0:
        return 0
    for _ in range(min(surplus, pages)):
        # One by one: of a larger number the driver runs only the first step, which frees one page.
        c.exec_driver_sql("PRAGMA incremental_vacuum(1)")
    return free - number("freelist_count")
