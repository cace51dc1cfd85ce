"""`connector audiences` and `connector segments`: without a daemon, and beside one."""

from __future__ import annotations

import json

import pytest

from .conftest import Call, Folder, until

SEGMENT = '\n[[connections.segments]]\nsegment = "{name}"\ntarget = "spring"\n'


@pytest.fixture
def segment(folder: Folder) -> str:
    """A segment of two customers, which the folder's connection tells to the platform."""
    name = f"Win back {folder.path.name}"
    people = [person.email for person in folder.platforms.jericommerce.people[:2]]
    folder.platforms.klaviyo.make_segment(name, *people)
    folder.config.write_text(folder.config.read_text() + SEGMENT.format(name=name))
    return name


def test_a_segment_is_read_and_told_without_a_daemon(
    call: Call, folder: Folder, segment: str
) -> None:
    said = call("segments", "sync", "acme", segment, at=folder)
    assert said.code == 0, said.err
    head, numbers = said.out.splitlines()
    assert head.startswith(f"acme  {segment} → spring: 2 members, full sync ")
    assert "here 2, there 2, in both 2" in numbers
    listed = call("segments", "list", "--json", at=folder)
    [link] = json.loads(listed.out)
    assert (link["source"], link["members"], link["problem"]) == (segment, 2, None)
    status = call("status", at=folder)
    assert f"{segment} → spring" in status.out
    assert "memberships" in status.out


def test_beside_a_daemon_the_daemon_does_it(call: Call, folder: Folder, segment: str) -> None:
    folder.start()
    said = call("segments", "sync", "acme", segment, at=folder)
    assert (said.code, said.err) == (0, "")
    assert "here 2, there 2" in said.out
    until("the metric", lambda: "connector_segment_members" in folder.ask("GET", "/metrics")[1])


def test_a_link_that_nobody_configured_is_said_so(call: Call, folder: Folder, segment: str) -> None:
    said = call("segments", "sync", "acme", "Nobody", at=folder)
    assert said.code == 1
    assert f"acme links no `Nobody`, but {segment}, spring" in said.err


def test_what_has_not_run_is_shown_and_a_fault_ends_with_1(call: Call, folder: Folder) -> None:
    folder.config.write_text(folder.config.read_text() + SEGMENT.format(name="Nowhere"))
    assert call("store", "upgrade", at=folder).code == 0
    said = call("segments", "list", at=folder)
    assert said.out == "acme  Nowhere → spring: has not run yet\n"
    said = call("segments", "sync", "acme", "Nowhere", at=folder)
    assert said.code == 1
    assert "L33 there is no segment Nowhere" in said.err


def test_audiences_of_a_platform_without_them_are_a_fault(call: Call, folder: Folder) -> None:
    entry = '\n[[connections.audiences]]\naudience = "vip"\nlist = "VIP"\n'
    folder.config.write_text(folder.config.read_text() + entry)
    said = call("audiences", "sync", "acme", "vip", at=folder)
    assert said.code == 2
    assert "connections.acme.audiences: found 1, allowed none" in said.err


def test_check_looks_up_every_name(call: Call, folder: Folder, segment: str) -> None:
    said = call("check", at=folder)
    assert f"ok      acme: segment {segment}: S" in said.out
    folder.config.write_text(folder.config.read_text() + SEGMENT.format(name="Nowhere"))
    said = call("check", at=folder)
    assert said.code == 1
    [line] = [line for line in said.out.splitlines() if "Nowhere" in line]
    assert line.startswith("FAULT")
    assert "L33" in line
