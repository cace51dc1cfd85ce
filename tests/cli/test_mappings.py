"""`connector mappings`: a changed mapping is checked against its user's examples, without
credentials, and shown on a real person."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .conftest import ROOT, Call, Folder

EXAMPLES = ROOT / "mappings" / "examples" / "jericommerce"


@pytest.fixture
def shipped(folder: Folder) -> Folder:
    """A folder with the shipped mapping and its examples, as `init` writes it."""
    shutil.copytree(EXAMPLES, folder.path / "mappings" / "examples" / "jericommerce")
    shutil.copy(ROOT / "mappings" / "jericommerce-generic.toml", folder.mapping.parent)
    return folder


def change(folder: Folder) -> None:
    """Rename a field, which the shipped examples do not expect."""
    text = folder.mapping.read_text()
    folder.mapping.write_text(text.replace("[profile.fields.balance]", "[profile.fields.points]"))


def test_the_shipped_mapping_passes_the_shipped_examples(call: Call, shipped: Folder) -> None:
    result = call("mappings", "check", at=shipped)
    assert result.code == 0, result.out
    assert result.out.startswith("ok      mapping jericommerce.toml: version ")


def test_a_changed_mapping_is_not_checked_against_the_shipped_examples(
    call: Call, shipped: Folder
) -> None:
    change(shipped)
    result = call("mappings", "check", at=shipped)
    assert result.code == 0, result.out
    assert "it differs from the shipped file, so" in result.out
    assert "shipped examples were not run" in result.out


def test_a_changed_mapping_is_checked_against_the_examples_of_its_user(
    call: Call, shipped: Folder
) -> None:
    change(shipped)
    own = shipped.path / "mappings" / "examples" / "jericommerce" / "mine.json"
    example = {
        "mapping": "jericommerce.toml",
        "customer": {"id": "1", "email": "ada@example.com", "loyaltyData": {"balance": 5}},
        "expect": {"properties": {"points": 6}},
    }
    own.write_text(json.dumps(example))
    result = call("mappings", "check", at=shipped)
    assert result.code == 1
    [line] = [line for line in result.out.splitlines() if "FAULT" in line]
    assert "mine.json: expect.properties: found " in line


def test_mappings_are_checked_without_credentials(call: Call, shipped: Folder) -> None:
    text = shipped.config.read_text()
    shipped.config.write_text(text.replace('"jeri_sandbox"', '"${NOT_SET}"'))
    result = call("mappings", "check", at=shipped)
    assert result.code == 0
    assert "ok      mapping jericommerce.toml: version " in result.out
    assert result.err.startswith("the configuration has 1 fault (`connector check` lists them)")
    shipped.mapping.write_text("version = 1\nsource =")
    result = call("mappings", "check", at=shipped)
    assert result.code == 1
    assert "FAULT   mapping jericommerce.toml C20" in result.out


def test_a_person_is_shown_before_and_after(call: Call, folder: Folder, tmp_path: Path) -> None:
    headers, body = folder.platforms.traffic.make_event()
    email = json.loads(body)["email"]
    folder.platforms.jericommerce.person(email).change(balance=321)
    folder.start()
    assert folder.request("POST", "/webhooks/acme", body, headers)[0] == 202
    folder.stop()
    assert call("refresh", "acme", email, at=folder).code == 0
    same = call("mappings", "preview", "acme", "--person", email, at=folder)
    assert same.code == 0
    assert same.out.startswith(f"{email}, as read 20")
    assert "  = balance: 321\n" in same.out
    edited = tmp_path / "edited.toml"
    text = folder.mapping.read_text()
    edited.write_text(text.replace("[profile.fields.balance]", "[profile.fields.points]"))
    # A configuration without credentials is enough.
    config = folder.config.read_text().replace('"jeri_sandbox"', '"${NOT_SET}"')
    folder.config.write_text(config)
    result = call("mappings", "preview", "acme", "--person", email, "--mapping", str(edited))
    assert result.code == 0
    assert "  + points: 321\n" in result.out
    assert "  - balance: 321 (stays at Klaviyo as it is)\n" in result.out
    missing = call("mappings", "preview", "acme", "--person", "no@example.com", at=folder)
    assert missing.code != 0
