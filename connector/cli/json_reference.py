"""The reference of what commands print with `--json`, generated from the views."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from connector.cli.reports import REPORTS

_HEAD = """\
# JSON output

Generated from the views in `connector/service`. A command that reports prints one JSON document
to stdout with `--json`, whether or not a daemon runs.

Times are in ms since 1970 UTC; ages, durations and `eta_seconds` are in seconds; `null` is a value
that is not known. Fields may be added in a later version; none is renamed or removed within a major
one.
"""


def reference() -> str:
    """Markdown: a section per command, then one per type that several of them contain."""
    sections, types = [_HEAD], dict[str, Any]()
    for command, report in REPORTS.items():
        schema = TypeAdapter(report).json_schema(mode="serialization")
        types |= schema.pop("$defs", {})
        sections.append(f"## {command}\n\n{_sentence(schema)}\n")
        if "properties" in schema:
            sections.append(_fields(schema))
    for name, schema in sorted(types.items()):
        if "properties" in schema:
            sections.append(f"## {name}\n\n{_summary(schema)}\n\n{_fields(schema)}")
    return "\n".join(sections)


def _sentence(schema: Mapping[str, Any]) -> str:
    if schema.get("type") == "array":
        return f"A list of {_type(schema['items'])}."
    return f"Prints {_type(schema)}." if "$ref" in schema else _summary(schema)


def _summary(schema: Mapping[str, Any]) -> str:
    return " ".join(str(schema.get("description", "")).split("\n\n")[0].split())


def _fields(schema: Mapping[str, Any]) -> str:
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for name, field in schema["properties"].items():
        meaning = " ".join(str(field.get("description", "")).split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {_type(field)} | {meaning} |")
    return "\n".join([*rows, ""])


def _type(field: Mapping[str, Any]) -> str:
    return " or ".join(dict.fromkeys(_types(field))).replace("|", "\\|")


def _types(field: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        yield f"[{name}](#{name.lower()})"
    elif "anyOf" in field:
        for part in field["anyOf"]:
            yield from _types(part)
    elif "enum" in field:
        yield from (f"`{value}`" for value in field["enum"])
    elif "const" in field:
        yield f"`{field['const']}`"
    elif field.get("type") == "array":
        yield f"list of {_type(field.get('items', {}))}"
    elif field.get("type") == "object" and field.get("additionalProperties"):
        values = field["additionalProperties"]
        yield f"table of {_type(values)}" if isinstance(values, dict) else "table"
    else:
        yield str(field.get("type", "any"))
