"""The space that a store no longer needs."""

from __future__ import annotations

from sqlalchemy import Connection

_FREE_RESERVE = 0.1
"""The share of free pages that is left for what comes next."""


def free_pages(c: Connection, pages: int) -> int:
    """Give up to `pages` free pages of an SQLite file back to the disk, as long as more than a
    tenth of it is free; how many were. PostgreSQL looks after itself."""
    if c.dialect.name != "sqlite":
        return 0

    def number(pragma: str) -> int:
        return int(c.exec_driver_sql(f"PRAGMA {pragma}").scalar_one())

    free = number("freelist_count")
    surplus = free - round(number("page_count") * _FREE_RESERVE)
    if surplus <= 0:
        return 0
    for _ in range(min(surplus, pages)):
        # One by one: of more, the driver takes the first step only, which is one page.
        c.exec_driver_sql("PRAGMA incremental_vacuum(1)")
    return free - number("freelist_count")
