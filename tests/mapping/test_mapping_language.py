"""Every word of the mapping language."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from connector.domain.errors import ConfigError, Problem
from connector.domain.lanes import Millis
from connector.domain.messages import EventMessage, Fault, Skip
from connector.mapping import (
    MISSING,
    CompiledMapping,
    ConversionError,
    PathError,
    built_in,
    compile_mapping,
    getter,
    load,
    parse_path,
    warnings,
)
from connector.mapping.address import valid_email
from connector.mapping.types import converter

HEAD = 'version = 1\nsource = "x"\n'


def mapping(text: str = "", head: str = HEAD) -> CompiledMapping:
    return compile_mapping(head + text)


def view(name: str = "A", email: Any = "ana@example.com", **event: Any) -> dict[str, Any]:
    body = {"name": name, "time": "2026-01-01T10:00:00Z", "properties": {}} | event
    return {"email": email, "event": body, "raw": {"id": "1"}}


def sent(compiled: CompiledMapping, seen: dict[str, Any], **more: Any) -> EventMessage:
    message = compiled.render_event(seen, unique_id="x:1", **more)
    assert isinstance(message, EventMessage), message
    return message


def faults(text: str, head: str = HEAD) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        compile_mapping(head + text, origin="m.toml")
    assert caught.value.problem is Problem.MAPPING_FAULTY
    return caught.value.faults


# ── paths ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("a", ("a",)),
        ("a.b", ("a", "b")),
        ('a."with space"', ("a", "with space")),
        (r'a."q\"\\"[0]', ("a", 'q"\\', 0)),
        ("a[0][12].b", ("a", 0, 12, "b")),
        ('""', ("",)),
    ],
)
def test_a_path_is_parsed(text: str, segments: tuple[str | int, ...]) -> None:
    assert parse_path(text) == segments


@pytest.mark.parametrize(
    "text", ["", ".", "a.", ".a", "a..b", "[0]", "a[x]", "a[-1]", "a b", 'a."']
)
def test_a_faulty_path_is_refused(text: str) -> None:
    with pytest.raises(PathError):
        parse_path(text)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.b", 1),
        ("l[1].c", 2),
        ("l[2]", MISSING),
        ("a.b.c", MISSING),
        ("t[0]", MISSING),
        ("t.a", MISSING),
        ("n.a.b", MISSING),
        ("a.b.c.d.e", MISSING),
        ("l.a", MISSING),
    ],
)
def test_a_path_finds_or_misses(path: str, found: Any) -> None:
    data = {"a": {"b": 1}, "l": [0, {"c": 2}], "t": "text", "n": None}
    assert getter(parse_path(path))(data) is found or getter(parse_path(path))(data) == found


# ── types ────────────────────────────────────────────────────────────────────────────────────────

MADRID = ZoneInfo("Europe/Madrid")


@pytest.mark.parametrize(
    ("kind", "value", "result"),
    [
        ("number", 12, 12),
        ("number", "12.5", 12.5),
        ("number", "-3", -3),
        ("number", True, ConversionError),
        ("number", "12,5", ConversionError),
        ("number", float("nan"), ConversionError),
        ("number", 10**400, ConversionError),
        ("number", "1e999", ConversionError),
        ("number", {}, ConversionError),
        ("integer", 12.0, 12),
        ("integer", "12", 12),
        ("integer", 12.5, ConversionError),
        ("string", " a ", "a"),
        ("string", 7, "7"),
        ("string", True, ConversionError),
        ("string", [], ConversionError),
        ("boolean", False, False),
        ("boolean", "Yes", True),
        ("boolean", 0, False),
        ("boolean", 2, ConversionError),
        ("boolean", "perhaps", ConversionError),
        ("date", "1990-05-17", "1990-05-17"),
        ("date", "2025-12-31T23:30:00Z", "2026-01-01"),
        ("date", "2026-01-01T00:30:00+02:00", "2025-12-31"),
        ("date", "2026-02-30", ConversionError),
        ("date", "0001-01-01T00:00:00+23:00", ConversionError),
        ("date", "17/05/1990", ConversionError),
        ("date", 5, ConversionError),
        ("datetime", "2026-01-01", "2026-01-01T12:00:00+00:00"),
        ("datetime", "2026-01-01T10:00:00+02:00", "2026-01-01T08:00:00+00:00"),
        ("datetime", "soon", ConversionError),
        ("url", "https://jeri.link/a?b=c==", "https://jeri.link/a?b=c=="),
        ("url", "javascript:alert(1)", ConversionError),
        ("url", "https://", ConversionError),
        (None, [1, "a"], [1, "a"]),
        (None, {"a": 1}, ConversionError),
    ],
)
def test_a_type_converts_or_refuses(kind: str | None, value: Any, result: Any) -> None:
    convert = converter(kind, MADRID)
    if result is ConversionError:
        with pytest.raises(ConversionError):
            convert(value)
    else:
        assert convert(value) == result
        assert type(convert(value)) is type(result)


@pytest.mark.parametrize(
    ("name", "values", "result"),
    [
        ("sign", (5,), "increase"),
        ("sign", ("-0.5",), "decrease"),
        ("sign", (0,), "none"),
        ("abs", (-5,), 5),
        ("lower", ("Ä",), "ä"),
        ("upper", ("a",), "A"),
        ("trim", (" a ",), "a"),
        ("join", (["a", 1], None, "b"), "a, 1, b"),
        ("first", (None, [], ["x", "y"]), "x"),
        ("first", (None,), None),
        ("number", ("12.5",), 12.5),
        ("date", ("2025-12-31T23:30:00Z",), "2026-01-01"),
    ],
)
def test_a_function_returns(name: str, values: tuple[Any, ...], result: Any) -> None:
    assert built_in(MADRID)[name](*values) == result


def test_every_function_is_documented() -> None:
    assert all(function.__doc__ for function in built_in(MADRID).values())


# ── identity ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text", ["a.b+c@x-y.co.uk", "o'neil@example.com", "a@b.co", "1@xn--a.xn--p1ai"]
)
def test_a_valid_address_is_accepted(text: str) -> None:
    assert valid_email(text)


@pytest.mark.parametrize(
    "text",
    ["a", "a@b", "a@@b.co", ".a@b.co", "a..b@c.co", "a@-b.co", "a@b..co", "a b@c.co", "a@b.c",
     "noemail@shop.com", "x@y.invalid", f"{'a' * 65}@b.co", f"a@{'b.' * 130}co", "ñ@b.co",
     "a@b.co\n"],
)  # fmt: skip
def test_an_invalid_address_is_rejected(text: str) -> None:
    assert not valid_email(text)


@pytest.mark.parametrize("email", [None, "", " ", "-"])
def test_a_record_without_an_identity_is_held(email: Any) -> None:
    result = mapping().render_event(view(email=email), unique_id="x:1")
    assert isinstance(result, Fault)
    assert result.problem is Problem.NO_IDENTITY


@pytest.mark.parametrize("email", ["secret-ana", 5, {"a": 1}, "N/A"])
def test_a_bad_address_is_a_fault_that_does_not_quote_it(email: Any) -> None:
    result = mapping().render_event(view(email=email), unique_id="x:1")
    assert isinstance(result, Fault)
    assert result.problem is Problem.BAD_ADDRESS
    assert str(email) not in result.detail


def test_the_first_address_wins_and_a_fresh_read_is_the_fallback() -> None:
    compiled = mapping('[identity]\nemail = ["raw.mail", "email"]')
    assert sent(compiled, view(email=" ANA@Example.com ")).identity == {"email": "ana@example.com"}
    assert sent(compiled, view(email=None), fresh={"email": "b@c.co"}).identity == {
        "email": "b@c.co"
    }


@pytest.mark.parametrize(
    ("phone", "identity", "notes"),
    [
        ("600 000 000", "+34600000000", ()),
        ("+1 212 555 0100", "+12125550100", ()),
        (600000000, "+34600000000", ()),
        ("call me", None, ("phone_number",)),
        ("12", None, ("phone_number",)),
        ([], None, ("phone_number",)),
    ],
)
def test_a_phone_number_is_normalised_or_dropped(
    phone: Any, identity: str | None, notes: tuple[str, ...]
) -> None:
    compiled = mapping('[identity]\nphone_number = ["raw.phone"]\ndefault_region = "ES"')
    message = sent(compiled, view() | {"raw": {"phone": phone}})
    assert message.identity.get("phone_number") == identity
    assert message.notes == notes


def test_without_a_phone_phonenumbers_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    import phonenumbers

    calls: list[str] = []
    monkeypatch.setattr(phonenumbers, "parse", lambda *_: calls.append("parse"))
    compiled = mapping('[identity]\nphone_number = ["raw.phone"]\ndefault_region = "ES"')
    for _ in range(10):
        sent(compiled, view())
        sent(mapping(), view())
    assert calls == []


# ── events ───────────────────────────────────────────────────────────────────────────────────────

RULE = """
[events]
prefix = "P "
[events.metrics.Known]
aliases = ["old-name"]
name = "New"
value = "event.properties.n"
add = { way = { fn = "sign", of = "event.properties.n" }, left = "balance", id = "raw.id" }
[events.metrics.Off]
enabled = false
refresh = false
"""


def test_an_event_is_rendered() -> None:
    message = sent(mapping(RULE), view("OLD-NAME", properties={"n": "12.5", "x": None}))
    assert message.metric == "P New"
    assert message.value == 12.5
    assert message.properties == {"n": "12.5", "x": None, "way": "increase", "id": "1"}
    assert message.occurred_at == 1_767_261_600_000


def test_only_a_fresh_read_fills_fields_missing_in_the_event() -> None:
    seen = view("Known", properties={"n": 1}) | {"balance": 1}
    assert "left" not in sent(mapping(RULE), seen).properties
    message = sent(mapping(RULE), seen, fresh={"balance": 7}, occurred_at=Millis(5))
    assert message.properties["left"] == 7
    assert message.occurred_at == 5


def test_an_event_carries_fresh_fields_unless_disabled() -> None:
    field = """
[profile.fields.b]
from = "balance"
[profile.attributes.location.city]
from = ["raw.city"]
"""
    fresh = {"balance": 7, "raw": {"city": "Vigo"}}
    message = sent(mapping(field), view(), fresh=fresh)
    assert message.attributes == {"location": {"city": "Vigo"}, "properties": {"b": 7}}
    assert sent(mapping(field), view()).attributes == {}
    assert (
        sent(mapping("[events]\nattach_profile = false\n" + field), view(), fresh=fresh).attributes
        == {}
    )


@pytest.mark.parametrize("n", [True, None, "many", [], float("inf")])
def test_a_value_that_is_not_a_number_is_omitted(n: Any) -> None:
    assert sent(mapping(RULE), view("Known", properties={"n": n})).value is None


def test_an_invalid_added_property_is_omitted_and_noted() -> None:
    message = sent(mapping(RULE), view("Known", properties={"n": "many"}))
    assert "way" not in message.properties
    assert isinstance(message, EventMessage)
    assert message.notes == ("add.way",)


def test_a_disabled_event_is_skipped() -> None:
    assert mapping(RULE).render_event(view("off"), unique_id="x:1") == Skip("disabled")


def test_unknown_events_follow_the_mappings_rule() -> None:
    assert sent(mapping(RULE), view("Other")).metric == "P Other"
    drop = mapping('[events]\nunknown = "drop"').render_event(view(), unique_id="x:1")
    assert drop == Skip("unknown_event")
    dead = mapping('[events]\nunknown = "dead-letter"').render_event(view(), unique_id="x:1")
    assert isinstance(dead, Fault)
    assert dead.problem is Problem.UNKNOWN_EVENT
    assert dead.detail == '"A" is not in the mapping'


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        ({}, Problem.MAPPING_FAILED),
        ({"event": {"name": 5}}, Problem.MAPPING_FAILED),
        (view(properties=[1]), Problem.MAPPING_FAILED),
        (view(time="soon"), Problem.TIME_OUT_OF_RANGE),
        (view(" "), Problem.METRIC_NAME),
        (view("n" * 128), Problem.METRIC_NAME),
    ],
)
def test_an_event_that_cannot_be_rendered_is_a_fault(
    seen: dict[str, Any], problem: Problem
) -> None:
    result = mapping().render_event(seen, unique_id="x:1")
    assert isinstance(result, Fault)
    assert result.problem is problem


def test_a_rule_is_found_and_decides_whether_to_read_the_profile() -> None:
    compiled = mapping(RULE)
    rule = compiled.event(" known ")
    assert rule is not None
    assert (rule.key, rule.metric) == ("Known", "P New")
    assert compiled.event("Other") is None
    assert compiled.refreshes("known")
    assert compiled.refreshes("Other")
    assert not compiled.refreshes("off")
    assert not mapping('[events]\nunknown = "drop"').refreshes("Other")


# ── profiles ─────────────────────────────────────────────────────────────────────────────────────

PROFILE = """
[events.metrics.Earned]
aliases = ["old-earned"]
[profile.fields.tier]
from = ["tier.name", "raw.tier"]
type = "string"
trusted = { "old-earned" = "event.properties.new_tier.name" }
[profile.fields.day]
from = ["birthdate"]
type = "date"
missing = "keep"
[profile.fields.status]
from_event = { Earned = "member" }
[profile.attributes.first_name]
from = ["first_name"]
"""


def test_a_person_is_rendered() -> None:
    message = mapping(PROFILE).render_profile(
        {"tier": {"name": "Gold"}, "birthdate": "x", "first_name": "Ana"}
    )
    assert message.fields == {"tier": ("set", "Gold")}
    assert message.attributes == {"first_name": "Ana"}
    assert message.problems == ("day: a text is not an ISO 8601 date",)
    assert message.attributes_to_set() == {"first_name": "Ana", "properties": {"tier": "Gold"}}


@pytest.mark.parametrize("nothing", [None, "", "-", " - "])
def test_a_missing_value_is_unset_or_kept_and_never_a_dash(nothing: Any) -> None:
    message = mapping(PROFILE).render_profile({"tier": {"name": nothing}, "birthdate": nothing})
    assert message.fields == {"tier": ("unset",)}
    assert message.fields_to_unset() == ["tier"]


@pytest.mark.parametrize(
    ("covers", "expected"),
    [
        (None, {"tier": ("set", "raw")}),
        (frozenset({"balance"}), {}),
        (frozenset({"tier"}), {"tier": ("set", "raw")}),
        (frozenset({"tier.name", "raw"}), {"tier": ("set", "raw")}),
    ],
)
def test_fields_a_read_does_not_cover_are_not_changed(
    covers: frozenset[str] | None, expected: dict[str, Any]
) -> None:
    assert mapping(PROFILE).render_profile({"raw": {"tier": "raw"}}, covers).fields == expected


def test_only_covered_fields_are_unset() -> None:
    compiled = mapping('[profile.fields.b]\nfrom = ["balance"]')
    assert compiled.render_profile({}, frozenset({"tier"})).fields == {}
    assert compiled.render_profile({}, frozenset({"balance"})).fields == {"b": ("unset",)}


def test_an_event_sets_only_trusted_fields() -> None:
    seen = view("EARNED", properties={"new_tier": {"name": "Gold"}}) | {"birthdate": "1990-01-01"}
    assert mapping(PROFILE).render_profile(seen).fields == {
        "tier": ("set", "Gold"),
        "status": ("set", "member"),
    }
    assert mapping(PROFILE).render_profile(view("Other")).fields == {}


def test_reads_names_what_enabled_fields_need() -> None:
    assert mapping(PROFILE).reads == {"tier.name", "raw.tier", "birthdate", "first_name"}


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def test_all_faults_at_once() -> None:
    found = faults(
        """
timezone = "Mars/One"
other = 1
[identity]
email = ["a..b"]
phone_number = ["phone"]
default_region = "XX"
[events]
unknown = "pas"
attach_profile = "yes"
[events.metrics.A]
aliases = ["b", ""]
alias = ["x"]
add = { x = { fn = "sgn", of = "event.properties.q" }, y = "blance", z = 5 }
value = { fn = "sign", of = [] }
[events.metrics.B]
name = "%s"
[profile.attributes.first]
from = ["first_name"]
[profile.fields.x]
from = ["balance"]
type = "numbr"
missing = "drop"
[profile.fields.y]
[profile.fields.z]
from = ["event.time"]
trusted = { A = "balance" }
from_event = { A = { b = 1 } }
"""
        % ("n" * 128),
        head='version = 2\nsource = ""\n',
    )
    expected = """version: found 2
source: found ""
timezone: found "Mars/One"
other: unknown word
identity.email[0]: found the path "a..b"
identity.default_region: found "XX"
events.unknown: found "pas", allowed: pass, drop, dead-letter; did you mean "pass"?
events.attach_profile: found "yes", allowed: true, false
events.metrics.A.aliases[1]: found ""
events.metrics.A.alias: unknown word
events.metrics.A.add.x.fn: found "sgn"
events.metrics.A.add.y: found the path "blance", which no view has
events.metrics.A.add.z: found 5
events.metrics.A.value.of: found []
events.metrics.B.name: found 128 characters
events.metrics.A: found the name "b", which "B" has already
profile.attributes.first: unknown attribute
profile.fields.x.type: found "numbr", allowed: number, integer, string
profile.fields.x.missing: found "drop"
profile.fields.y: found no source
profile.fields.z.from[0]: found "event.time"
profile.fields.z.trusted.A: found "balance"
profile.fields.z.from_event.A: found an object""".splitlines()
    for line in expected:
        assert any(fault.startswith(f"m.toml: {line}") for fault in found), line
    unexpected = [f for f in found if not any(f.startswith(f"m.toml: {e}") for e in expected)]
    assert unexpected == []


@pytest.mark.parametrize(
    "text",
    ["= 1", "identity = 5", "events = []", "[events]\nmetrics = 1", "[events.metrics]\nA = 1",
     "[profile]\nfields = 1", "[profile.fields]\na = 1", "[profile.attributes]\nlocale = 1",
     "[profile.fields.a]\nfrom = 1", "[profile.fields.a]\nfrom = [1]", "[identity]\nemail = []",
     "[profile.fields.a]\nfrom = [{ fn = 1, of = 2 }]", "[profile.fields.a]\ntrusted = 1",
     '[profile.fields.a]\nfrom = ["email"]\ntype = 1', "[events]\nprefix = 1"],
)  # fmt: skip
def test_a_wrong_shape_is_a_fault(text: str) -> None:
    assert faults(text)


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(tmp_path / "bad.toml")


def test_a_version_depends_on_content_not_on_comments() -> None:
    assert mapping("[events]\nprefix='a'").version == mapping("# c\n[events]\nprefix = 'a'").version
    assert mapping("[events]\nprefix='a'").version != mapping("[events]\nprefix='b'").version
    assert len(mapping().version) == 12


class Point:
    value = "tests:half"

    def __init__(self, function: Any) -> None:
        self.function = function

    def load(self) -> Any:
        if isinstance(self.function, Exception):
            raise self.function
        return self.function


CALL = '[events.metrics.A]\nadd = { h = { fn = "half", of = ["event.properties.n", "raw.no"] } }'


def plug_in(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    installed = {"half": Point(function)}
    monkeypatch.setattr("connector.mapping.expressions.installed", lambda: installed)


def test_a_function_may_come_from_a_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, lambda n, no: n / 2 if no is None else no)
    assert sent(mapping(CALL), view(properties={"n": 5})).properties == {"n": 5, "h": 2.5}
    failed = sent(mapping(CALL), view(properties={"n": "text"}))
    assert isinstance(failed, EventMessage)
    assert failed.notes == ("add.h",)
    assert sent(mapping(CALL), view()).properties == {}


@pytest.mark.parametrize("function", [ImportError("no"), 5])
def test_a_function_that_cannot_be_imported_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, function: Any
) -> None:
    plug_in(monkeypatch, function)
    with pytest.raises(ConfigError, match="half") as caught:
        compile_mapping(HEAD + CALL)
    assert caught.value.problem is Problem.PLUGIN_BROKEN
    also = CALL + "\n[identity]\nemial = []"
    assert len(faults(also)) == 2, "with faults of the file's own it is the file's fault"


def test_warnings_name_what_klaviyo_tracks_itself() -> None:
    found = warnings(
        mapping(
            '[profile.fields.email]\nfrom = "email"\n'
            '[profile.fields."First Name"]\nfrom = "raw.f"\n'
            '[profile.fields."$x"]\nfrom = "raw.x"\n[profile.fields.balance]\nfrom = "balance"\n'
            '[events.metrics.A]\nadd = { "$y" = "raw.y", ok = "raw.z" }'
        )
    )
    assert [line.split(":")[0] for line in found] == [
        "profile.fields.email",
        "profile.fields.First Name",
        "profile.fields.$x",
        'events.metrics."A".add.$y',
    ]
