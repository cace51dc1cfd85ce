"""What a person is shown, made of what the store says: pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.profile_state import digest
from connector.ports import Backfill, PersonState, StuckPerson
from connector.service.status import StuckPersonView

_OUTCOMES = ("sent", "unchanged", "held", "invalid", "unknown", "dead", "pending")
_FLAGS = ("dry_run", "existing_only", "force", "events")
_HISTORY_OUTCOMES = ("imported", "already_known")
_DRY_RUN_OUTCOMES = (
    "would_send",
    "unchanged",
    "held",
    "invalid",
    "unknown",
    "dead",
    "new_to_klaviyo",
)


def stuck_person_view(found: StuckPerson) -> StuckPersonView:
    return StuckPersonView(
        connection=found.lane.connection,
        lane=found.lane.lane_kind.title(found.lane.destination),
        state=found.state.name.lower(),
        problem=found.problem,
        meaning=Problem.from_code(found.problem).meaning if found.problem else "",
        detail=found.detail,
        since=found.since,
        platform_id=found.platform_id,
        email=found.email,
        target=found.target,
    )


def run_view(
    run: Backfill, waiting: tuple[int, int], *, now: Millis, alive: bool
) -> dict[str, Any]:
    """connector.service.status.BackfillStatus as JSON. `waiting`: people to read and to write;
    `alive`: whether a process works on runs."""
    counts, dry = Counter(run.counts), bool(run.args.get("dry_run"))
    rows = counts["rows"]
    done = max(0, rows - sum(waiting))
    progressing = alive and run.state == "running"
    elapsed = max(1.0, (now - run.started_at) / 1000)
    per_second = done / elapsed if progressing else None
    left = max(0, run.total - done) if run.total is not None else None
    return {
        "id": run.id,
        "connection": run.connection,
        "source": run.source,
        "what": run.args.get("what"),
        **{flag: bool(run.args.get(flag)) for flag in _FLAGS},
        "state": run.state,
        "progressing": progressing,
        "rows": rows,
        "total": run.total,
        "done": done,
        "to_read": waiting[0],
        "to_write": waiting[1],
        "per_second": None if per_second is None else round(per_second, 2),
        "eta_seconds": left / per_second if left is not None and per_second else None,
        **_outcome_counts(counts, dry=dry, events=bool(run.args.get("events"))),
        "duplicates": _duplicates(counts) if not run.args.get("events") else 0,
        "not_at_klaviyo": counts["not_at_klaviyo"],
        "notes": list(run.notes),
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "problem": run.problem,
        "detail": run.detail,
    }


def _duplicates(counts: Mapping[str, int]) -> int:
    """Rows of the source that name a person of an earlier row: with them a summary adds up
    to the rows."""
    others = ("people", "invalid_rows", "no_email", "not_at_klaviyo")
    return max(0, counts.get("rows", 0) - sum(counts.get(name, 0) for name in others))


def _outcome_counts(
    counts: Mapping[str, int], *, dry: bool, events: bool
) -> dict[str, dict[str, int]]:
    """People, or events of the past, by where they ended."""
    if events:
        names = ("would_import",) if dry else _HISTORY_OUTCOMES
        return {"people": {}, "past_events": {name: counts.get(name, 0) for name in names}}
    return {
        "people": people_counts(counts, _DRY_RUN_OUTCOMES if dry else _OUTCOMES),
        "past_events": {},
    }


def people_counts(counts: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """People by where they ended; a row of the source without a usable address is one too."""
    found = {name: counts.get(name, 0) for name in names}
    found["held"] += counts.get("no_email", 0)
    found["invalid"] += counts.get("invalid_rows", 0)
    return found


def timeline_view(person: PersonState) -> dict[str, Any]:
    fields = {
        name: {
            "value": value,
            "confirmed": person.confirmed.get(name, (None,))[0] == digest(value),
            "confirmed_at": person.confirmed.get(name, (None, None))[1],
        }
        for name, (value, _) in person.wanted.items()
    }
    return {
        "platform_id": person.platform_id,
        "email": person.email,
        "read": {
            "state": person.read_state,
            "at": person.read_at,
            "unknown_since": person.gone_at,
        },
        "write": {"state": person.write_state, "problem": person.problem},
        "fields": fields,
        "timeline": [
            {
                "at": m.at,
                "what": m.kind,
                "name": m.name,
                "state": m.state,
                "problem": m.problem,
                "detail": m.detail,
                "data": json.loads(m.data) if m.data else None,
                "request": asdict(m.request) if m.request else None,
            }
            for m in person.timeline
        ],
    }
