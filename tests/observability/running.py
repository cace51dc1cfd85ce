"""A real Prometheus on loopback that scrapes a daemon."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

import orjson

from tests.cli.conftest import Folder
from tests.waiting import free_port, until

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
                # It needs little CPU; leave the cores to the tests.
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
        """The response of /api/v1, whatever its status."""
        query = f"?{urllib.parse.urlencode(args)}" if args else ""
        return dict(orjson.loads(self._get(f"/api/v1/{path}{query}")[1]))

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        response = self.api("query", query=expr)
        assert response["status"] == "success", (expr, response)
        return list(response["data"]["result"])

    def firing(self) -> set[str]:
        """The names of the firing alerts."""
        found = self.query('count by (alertname) (ALERTS{alertstate="firing"})')
        return {series["metric"]["alertname"] for series in found}

    def _get(self, path: str) -> tuple[int, bytes]:
        caller = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(caller):
            try:
                caller.request("GET", path)
                answer = caller.getresponse()
                return answer.status, answer.read()
            except OSError:
                return 0, b"{}"


def post(daemon: Folder, count: int = 1) -> tuple[dict[str, str], bytes]:
    """Post webhooks of new events; returns (headers, body) of the last one."""
    headers, body = {}, b""
    for _ in range(count):
        headers, body = daemon.platforms.traffic.make_event()
        assert daemon.request("POST", "/webhooks/acme", body, headers)[0] == 202
    return headers, body
