"""`connector audiences` and `connector segments`, with and without a daemon."""

from __future__ import annotations

import json

import pytest

from tests.waiting import until

from .conftest import Call, Folder

SEGMENT = '\n[[connections.segments]]\nsegment = "{name}"\ntarget = "spring"\n'


@pytest.fixture
def segment(folder: Folder) -> str:
    """A segment of two customers that the folder's connection syncs to the platform."""
    name = f"Win back {folder.path.name}"
    people = [person.email for person in folder.platforms.jericommerce.people[:2]]
    folder.platforms.klaviyo.make_segment(name, *people)
    folder.config.write_text(folder.config.read_text() + SEGMENT.format(name=name))
    return name


def test_a_segment_is_read_and_sent_without_a_daemon(
    call: Call, folder: Folder, segment: str
) -> None:
    result = call("segments", "sync", "acme", segment, at=folder)
    assert result.code == 0, result.err
    head, numbers = result.out.splitlines()
    assert head.startswith(f"acme  {segment} → spring: 2 members, full sync ")
    assert "here 2, there 2, in both 2" in numbers
    listed = call("segments", "list", "--json", at=folder)
    [link] = json.loads(listed.out)
    assert (link["source"], link["members"], link["problem"]) == (segment, 2, None)
    status = call("status", at=folder)
    assert f"{segment} → spring" in status.out
    assert "memberships" in status.out


def test_with_a_daemon_the_daemon_runs_the_command(
    call: Call, folder: Folder, segment: str
) -> None:
    folder.start()
    result = call("segments", "sync", "acme", segment, at=folder)
    assert (result.code, result.err) == (0, "")
    assert "here 2, there 2" in result.out
    until("the metric", lambda: "connector_segment_members" in folder.request("GET", "/metrics")[1])


def test_a_link_that_is_not_configured_is_reported(
    call: Call, folder: Folder, segment: str
) -> None:
    result = call("segments", "sync", "acme", "Unknown", at=folder)
    assert result.code == 2
    message = " ".join(result.err.replace("│", " ").split())
    assert f"no segment 'Unknown'; available: {segment}, spring" in message


def test_a_link_that_has_not_run_is_shown_and_a_fault_exits_1(call: Call, folder: Folder) -> None:
    folder.config.write_text(folder.config.read_text() + SEGMENT.format(name="Nowhere"))
    assert call("store", "upgrade", at=folder).code == 0
    result = call("segments", "list", at=folder)
    assert result.out == "acme  Nowhere → spring: has not run yet\n"
    result = call("segments", "sync", "acme", "Nowhere", at=folder)
    assert result.code == 1
    assert "L33 there is no segment Nowhere" in result.err


def test_audiences_of_a_platform_without_them_are_a_fault(call: Call, folder: Folder) -> None:
    entry = '\n[[connections.audiences]]\naudience = "vip"\nlist = "VIP"\n'
    folder.config.write_text(folder.config.read_text() + entry)
    result = call("audiences", "sync", "acme", "vip", at=folder)
    assert result.code == 2
    assert "connections.acme.audiences: found 1, allowed none" in result.err


def test_check_looks_up_every_name(call: Call, folder: Folder, segment: str) -> None:
    result = call("check", at=folder)
    assert f"ok      acme: segment {segment}: S" in result.out
    mistyped = segment.upper()
    folder.config.write_text(folder.config.read_text() + SEGMENT.format(name=mistyped))
    result = call("check", at=folder)
    assert result.code == 1
    [line] = [line for line in result.out.splitlines() if mistyped in line]
    assert line.startswith("FAULT")
    assert "L33" in line
    assert f"did you mean '{segment}'" in line
    result = call("segments", "sync", "acme", mistyped, at=folder)
    assert f"did you mean '{segment}'" in result.err
