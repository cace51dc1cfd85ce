"""The public surface: a fixed list of names, and all that a platform by others needs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import connector.sdk
from connector.tools.templates.platforms import write
from tests.platforms.plugins.toy_install import TOY

# A name that is removed or changes its meaning needs a new API_VERSION.
VERSION = 1
NAMES = [
    "API_VERSION",
    "Action",
    "Actions",
    "Allowed",
    "AmbiguousError",
    "ApiResponse",
    "Audiences",
    "BaseUrl",
    "Blocked",
    "Check",
    "Client",
    "Clock",
    "ConfigError",
    "ConversionError",
    "Credential",
    "DeliveryError",
    "DirectCall",
    "Duration",
    "DurationOrNever",
    "EventView",
    "Extra",
    "HeaderKey",
    "History",
    "Http",
    "Interval",
    "JsonApi",
    "Kit",
    "Limit",
    "LoadedExtras",
    "MISSING",
    "Malformed",
    "Member",
    "MembersPage",
    "MembershipResult",
    "MembershipWriter",
    "Millis",
    "NOT_APPLIED",
    "OAuthToken",
    "Offer",
    "PeoplePage",
    "PeoplePageItem",
    "PersonRef",
    "PersonSnapshot",
    "PersonView",
    "Platform",
    "PlatformSettings",
    "PositiveDuration",
    "Problem",
    "QueryKey",
    "Quota",
    "Rate",
    "RateLimiter",
    "Reader",
    "Record",
    "Rejected",
    "RetryLater",
    "Secrets",
    "Section",
    "Stream",
    "Unauthorised",
    "Url",
    "VIEW_PATHS",
    "Webhook",
    "before_action",
    "credential_check",
    "get_logger",
    "getter",
    "is_any_secret",
    "is_blank",
    "is_signed",
    "iso",
    "json_object",
    "load_extras",
    "malformed",
    "parse_body",
    "parse_object",
    "parse_path",
    "per_second",
    "setting",
    "text_field",
    "time_field",
    "to_millis",
    "unauthorised",
    "unknown_person_on_404",
    "unless_unavailable",
    "usable_secrets",
    "with_extras",
]


def test_the_names_of_this_version_are_fixed() -> None:
    assert connector.sdk.API_VERSION == VERSION
    assert sorted(connector.sdk.__all__) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_imported(name: str) -> None:
    assert hasattr(connector.sdk, name)


def imported_modules(file: Path) -> Iterator[str]:
    """The modules of the connector that a file imports from, at any depth of the file."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == "connector")


def assert_public(folder: Path) -> None:
    files = sorted(folder.rglob("*.py"))
    found = {file: set(imported_modules(file)) for file in files}
    assert any("connector.sdk" in modules for modules in found.values())
    for file, modules in found.items():
        private = {
            module
            for module in modules
            if module != "connector.sdk" and not f"{module}.".startswith("connector.testing.")
        }
        assert not private, f"{file} imports what is not public: {private}"


def test_the_scaffold_imports_public_modules_only(tmp_path: Path) -> None:
    write(tmp_path / "new", "acme_club")
    assert_public(tmp_path / "new")


def test_the_toy_platform_imports_public_modules_only() -> None:
    assert_public(TOY)
