"""What axe-core finds on a page as it is now."""

from __future__ import annotations

from typing import Literal

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page

Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")


async def faults_of(page: Page, *themes: Theme) -> list[str]:
    """Faults in these themes. The page needs `bypass_csp`: it refuses injected scripts, so axe
    comes in through the debugger."""
    found = []
    for theme in themes or THEMES:
        # A colour half-way from one theme to the other is no fault.
        await page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        results = await Axe().run(page)
        found += [f"{theme} {page.url}: {v['id']}" for v in results.response["violations"]]
    return found
