"""One Chromium for all tests of a test process: its start costs more than most of them."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.waiting import until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_ARGUMENTS = [
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-sandbox",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-extensions",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-client-side-phishing-detection",
    "--disable-features=Translate,MediaRouter,OptimizationHints,HttpsUpgrades",
    "--hide-scrollbars",
    "--mute-audio",
    "--password-store=basic",
]


@contextlib.contextmanager
def chromium_in(folder: Path) -> Iterator[str]:
    """A browser with this profile: the address that its debugger listens on."""
    command = [str(CHROMIUM), *_ARGUMENTS, f"--user-data-dir={folder}"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        port = folder / "DevToolsActivePort"
        until("the browser listens", lambda: port.exists() and "\n" in port.read_text())
        yield f"http://127.0.0.1:{port.read_text().split()[0]}"
    finally:
        process.terminate()
        process.wait()
