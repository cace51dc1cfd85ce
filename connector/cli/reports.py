"""What each command prints with `--json`. docs/json.md is generated from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from connector.ports import ActionView, AuditEntry
from connector.service.status import (
    ApprovalStatus,
    BackfillStatus,
    DeadLetterView,
    Link,
    LinkNotRun,
    Status,
    StuckPersonView,
    WebhookSheet,
)
from connector.service.timeline import PersonTimeline

REPORTS: Final[Mapping[str, Any]] = {
    "connector status": Status,
    "connector explain": list[PersonTimeline],
    "connector backfill start": BackfillStatus,
    "connector backfill list": list[BackfillStatus],
    "connector backfill show": BackfillStatus,
    "connector dead-letters list": list[DeadLetterView],
    "connector people list": list[StuckPersonView],
    "connector approvals list": list[ApprovalStatus],
    "connector actions list": list[ActionView],
    "connector audit": list[AuditEntry],
    "connector audiences list": list[Link | LinkNotRun],
    "connector segments list": list[Link | LinkNotRun],
    "connector webhook-builder": WebhookSheet,
}
