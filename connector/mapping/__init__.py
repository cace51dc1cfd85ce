"""The mapping language: from a platform's view to Klaviyo's fields. docs/mappings.md explains
it."""

from __future__ import annotations

from connector.mapping.compile import compile_mapping
from connector.mapping.conflicts import Writer, find_conflicts
from connector.mapping.examples import run_examples
from connector.mapping.files import MappingFile, entries, load
from connector.mapping.functions import built_in
from connector.mapping.paths import MISSING, PathError, format_path, getter, parse_path
from connector.mapping.render import CompiledMapping
from connector.mapping.rules import EventRule, Identity
from connector.mapping.types import TYPES, ConversionError
from connector.mapping.vocabulary import ATTRIBUTES, KEYWORDS, VIEW_PATHS
from connector.mapping.warnings import warnings

__all__ = [
    "ATTRIBUTES",
    "KEYWORDS",
    "MISSING",
    "TYPES",
    "VIEW_PATHS",
    "CompiledMapping",
    "ConversionError",
    "EventRule",
    "Identity",
    "MappingFile",
    "PathError",
    "Writer",
    "built_in",
    "compile_mapping",
    "entries",
    "find_conflicts",
    "format_path",
    "getter",
    "load",
    "parse_path",
    "run_examples",
    "warnings",
]
