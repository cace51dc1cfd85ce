"""What each command prints with `--json`. docs/json.md is generated from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from connector.ports import ActionView
from connector.service.status import ApprovalStatus, Status

REPORTS: Final[Mapping[str, Any]] = {
    "connector status": Status,
    "connector approvals list": list[ApprovalStatus],
    "connector actions list": list[ActionView],
}
