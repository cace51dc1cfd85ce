"""Configurations of the simulated daemon."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from connector.app.configuration import read_config
from connector.config import Config
from tests.paths import MAPPINGS

MODULES = ("events", "profiles", "audiences", "actions")
LEAVE_FLOOR = 4
"""People that a scan may remove from the list without approval: few are here."""
_TOML = """\
[store]
url = "postgresql://nobody@127.0.0.1/nowhere"

[server]
shutdown_timeout = "10s"

[log]
level = "error"

[delivery]
bulk_threshold = {bulk_threshold}
retry_base = "1s"
retry_max = "60s"
probe_every = "20s"

[retention]
timeline = "30s"
dead_letters = "60s"

[[connections]]
name = "acme"
source = "wll"
mapping = "{mapping}"
mode = "{mode}"
modules = {modules}

[connections.settings]
base_url = "http://127.0.0.1:8001/v1"
auth_url = "http://127.0.0.1:8001/oauth/token"
api_key = "wll_sandbox"
client_id = "wll_client"
client_secret = "wll_client_secret"
webhook_secret = "wll_webhook_secret"
points_event_type = "FLOW_POINTS"
points_event_secret = "wll_points_secret"
join_event = "AUDIENCE_JOINED"
leave_event = "AUDIENCE_LEFT"
poll_every = "24h"
paths = {{ users = "/users?limit=5", members = "/audiences/{{id}}/members?limit=2" }}

[connections.klaviyo]
base_url = "http://127.0.0.1:8002"
private_key = "pk_sandbox"
rate_share = {rate_share}
flow_guard = "{flow_guard}"

[[connections.audiences]]
audience = "Gold"
list = "Gold members"
every = "120s"
on_manual_removal = "re-add"
max_leave_floor = {leave_floor}

[connections.actions]
secret = "flow_secret"
daily_per_person = 1000
unknown_person_grace = "3s"
"""


@cache
def config(
    *,
    modules: tuple[str, ...] = MODULES,
    mode: str = "live",
    bulk_threshold: int = 50,
    rate_share: float = 1.0,
    flow_guard: str = "off",
) -> Config:
    text = _TOML.format(
        mapping=MAPPINGS / "wll.toml",
        mode=mode,
        modules=str(list(modules)).replace("'", '"'),
        bulk_threshold=bulk_threshold,
        rate_share=rate_share,
        flow_guard=flow_guard,
        leave_floor=LEAVE_FLOOR,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "connector.toml"
        path.write_text(text)
        return read_config(path)
