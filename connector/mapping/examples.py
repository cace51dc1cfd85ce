"""Runs the examples beside the mapping files (`mappings/examples/<platform>/`)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from connector.domain.errors import ConfigError
from connector.domain.lanes import Millis
from connector.domain.messages import EventMessage, Fault, ProfileMessage, Skip
from connector.mapping.compile import compile_mapping
from connector.mapping.files import load
from connector.mapping.render import CompiledMapping

View = Callable[..., dict[str, Any]]
ViewFactory = Callable[[Mapping[str, Any]], tuple[View, View | None]]
_ABOUT = ("about", "mapping", "enable", "settings", "tiers", "rewards", "expect")
_GIVEN = ("name", "email", "record", "customer", "extras", "covers")
# No example depends on the clock: only event.time could show this.
_OCCURRED_AT = Millis(1_767_225_600_000)


def run_examples(
    directory: Path,
    view: View,
    person: View | None = None,
    view_factory: ViewFactory | None = None,
    *,
    files: Sequence[Path] | None = None,
) -> list[str]:
    """Renders every `*.json` in `directory`, or `files` of it, and compares; returns one line per
    difference.

    `view` and `person` are the platform's event_view and person_view; `view_factory` makes both
    for an example, which may hold `settings` of its platform, and `tiers` and `rewards` as in
    connector.toml.

    An example names a mapping file two folders up and has `name` and `record` (an event, with
    `customer` as the fresh read if there is one) or only `customer` (a profile); `extras` are those
    of the person. `enable` names fields that are off in the file and on for this example. `expect`
    holds the results to compare; its numbers and texts must match in type too.
    """
    faults: list[str] = []
    mappings: dict[str, CompiledMapping] = {}
    if files is None:
        files = sorted(directory.glob("*.json"))
    if not files:
        return [f"{directory}: no examples"]
    for file in files:
        try:
            example = json.loads(file.read_text(encoding="utf-8"))
            if unknown := set(example) - {*_ABOUT, *_GIVEN}:
                faults.append(f"{file}: unknown word {', '.join(sorted(unknown))}")
                continue
            name = example["mapping"]
            if name not in mappings:
                mappings[name] = load(directory.parent.parent / name).mapping
            expected = example["expect"]
            views = view_factory(example) if view_factory else (view, person)
            found = _render(
                _with_enabled(mappings[name], example.get("enable", ())), example, *views
            )
        except ConfigError as error:
            faults += [f"{file}: {fault}" for fault in error.faults]
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            faults.append(f"{file}: cannot be run: {type(error).__name__}: {error}")
            continue
        for word in expected:
            wanted, got = _text(expected[word]), _text(found.get(word))
            if wanted != got:
                faults.append(f"{file}: expect.{word}: found {got}, expected {wanted}")
    return faults


def _with_enabled(mapping: CompiledMapping, names: Iterable[str]) -> CompiledMapping:
    if not names:
        return mapping
    tree = tomllib.loads(mapping.text)
    for name in names:
        tree["profile"]["fields"][name]["enabled"] = True
    return compile_mapping(tomli_w.dumps(tree))


def _render(
    mapping: CompiledMapping, example: Mapping[str, Any], view: View, person: View | None
) -> dict[str, Any]:
    fresh = None
    if "customer" in example:
        if person is None:
            raise ValueError("this platform has no view of people")
        fresh = person(example["customer"], example.get("extras", {}))
    covers = frozenset(example["covers"]) if "covers" in example else None
    if "record" not in example:
        return _profile(mapping.render_profile(fresh or {}, covers))
    event_view = view(example["name"], _OCCURRED_AT, example["record"], example.get("email"))
    message = mapping.render_event(event_view, unique_id="example", fresh=fresh)
    return _event(message) | _profile(mapping.render_profile(event_view))


def _event(message: EventMessage | Skip | Fault) -> dict[str, Any]:
    if isinstance(message, Skip):
        return {"skip": message.reason}
    if isinstance(message, Fault):
        return {"fault": str(message.problem)}
    return {
        "metric": message.metric,
        "identity": dict(message.identity),
        "properties": dict(message.properties),
        "value": message.value,
        "attributes_with_event": dict(message.attributes),
        "notes": list(message.notes),
    }


def _profile(message: ProfileMessage) -> dict[str, Any]:
    return {
        "fields": {name: change[1] for name, change in message.fields.items() if len(change) == 2},
        "unset": sorted(message.fields_to_unset()),
        "attributes": dict(message.attributes),
        "problems": list(message.problems),
    }


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
