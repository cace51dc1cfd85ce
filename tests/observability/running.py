"""A real Prometheus on loopback, and the daemon that it looks at."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

import orjson

from tests.cli.conftest import Folder, free_port, until

CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: connector
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


class Prometheus:
    """`program` in `folder`, scraping `port` every second with `rules`."""

    def __init__(self, program: str, folder: Path, port: int, rules: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rules.yml").write_text(rules)
        (folder / "prometheus.yml").write_text(CONFIG.format(port=port))
        self.port = free_port()
        self._log = folder / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
                # Of two cores it needs none.
                env={"GOMAXPROCS": "1"},
            )

    def wait(self) -> None:
        until("prometheus is ready", self._ready)

    def _ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        return self._get("/-/ready")[0] == 200

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def api(self, path: str, **args: str) -> dict[str, Any]:
        """The answer of /api/v1, whatever its status."""
        query = f"?{urllib.parse.urlencode(args)}" if args else ""
        return dict(orjson.loads(self._get(f"/api/v1/{path}{query}")[1]))

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """What a query finds now."""
        said = self.api("query", query=expr)
        assert said["status"] == "success", (expr, said)
        return list(said["data"]["result"])

    def firing(self) -> set[str]:
        """Names of alerts that fire."""
        found = self.ask('count by (alertname) (ALERTS{alertstate="firing"})')
        return {one["metric"]["alertname"] for one in found}

    def _get(self, path: str) -> tuple[int, bytes]:
        caller = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(caller):
            try:
                caller.request("GET", path)
                answer = caller.getresponse()
                return answer.status, answer.read()
            except OSError:
                return 0, b"{}"


def post(daemon: Folder, count: int = 1) -> tuple[dict[str, str], bytes]:
    """New events of the sandbox's people, as webhooks; returns the last one."""
    headers, body = {}, b""
    for _ in range(count):
        headers, body = daemon.platforms.traffic.make_event()
        assert daemon.request("POST", "/webhooks/acme", body, headers)[0] == 202
    return headers, body
