"""The mapping language: what a platform says, in Klaviyo's words. docs/mappings.md explains it."""

from __future__ import annotations

from connector.mapping.clashes import Writer, clashes
from connector.mapping.compile import MappingFile, compile_mapping, load
from connector.mapping.examples import run_examples
from connector.mapping.functions import built_in
from connector.mapping.paths import MISSING, PathError, format_path, getter, parse_path
from connector.mapping.render import CompiledMapping
from connector.mapping.rules import EventRule, Identity
from connector.mapping.types import TYPES, Unfit
from connector.mapping.warn import warnings
from connector.mapping.words import ATTRIBUTES, VIEW, WORDS

__all__ = [
    "ATTRIBUTES",
    "MISSING",
    "TYPES",
    "VIEW",
    "WORDS",
    "CompiledMapping",
    "EventRule",
    "Identity",
    "MappingFile",
    "PathError",
    "Unfit",
    "Writer",
    "built_in",
    "clashes",
    "compile_mapping",
    "format_path",
    "getter",
    "load",
    "parse_path",
    "run_examples",
    "warnings",
]
