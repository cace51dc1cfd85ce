"""Takes docs/console-*.png, the pictures of the console, of a running demo; all of them, or those
that are named:

    .venv/bin/connector demo --port 8790        # in another terminal
    .venv/bin/python docs/screenshots.py http://127.0.0.1:8790 [NAME ...]

Needs Debian's Chromium (`make browser`). The pages are shown as they are: to show a linked
list, link the audience Gold in the demo first.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent
SHOTS = {
    "overview": ("/", "light", 1100),
    "connection": ("/connections/yotpo", "light", 1100),
    "builder": (
        "/webhook-builder?connection=yotpo&preset=welcome-bonus&amount=100&reason=Welcome+bonus",
        "dark",
        1100,
    ),
    "phone": ("/", "dark", 390),
    "add": ("/connections/new?source=yotpo", "light", 1100),
    "fields": ("/connections/wll/fields", "light", 1100),
    "links": ("/connections/wll/links", "dark", 1100),
}
"""Name → (path, theme, width in CSS pixels)."""
_HEIGHT = 760


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    chromium = shutil.which("chromium")
    if chromium is None:
        print("Chromium is not installed: make browser", file=sys.stderr)
        return 1
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        for name in sys.argv[2:] or SHOTS:
            path, theme, width = SHOTS[name]
            context = browser.new_context(
                viewport={"width": width, "height": _HEIGHT},
                color_scheme="dark" if theme == "dark" else "light",
            )
            page = context.new_page()
            page.goto(sys.argv[1] + path)
            page.screenshot(path=FOLDER / f"console-{name}.png")
            context.close()
        browser.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
