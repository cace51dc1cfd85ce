"""Guarantee 8: a log line contains no secret and no personal data, and is one line."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.records import Record
from connector.runtime import log
from connector.runtime.log import redact

ADDRESS = "ana@example.com"
KEY = "pk_0123456789abcdef"

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def lines(stream: io.StringIO) -> Lines:
    log.configure(format="json", stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("ana@example.com", "<address>"),
        ("to Ana.B+tag@mail.example.co.uk now", "to <address> now"),
        ("o'brien@example.com", "<address>"),
        ("email=ana%40example.com&x=1", "email=<address>&x=1"),
        ("ñandú@ejemplo.es", "<address>"),
        ("<ana@example.com>", "<<address>>"),
        ("call +34600000000 now", "call <phone> now"),
        (f"the key {KEY}", "the key ***"),
        ("Bearer abc.def-ghi", "***"),
        ("authorization: bearer abcdef", "authorization: ***"),
        ("Klaviyo-API-Key whatever", "***"),
        ("Basic dXNlcjpwdw==", "***"),
        ("jwt eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "jwt ***"),
        ("nothing to hide at 2026-11-20T10:00:00+00:00", None),
        ("GET /api/profiles/{id} took 5 ms", None),
    ],
)
def test_addresses_and_keys_are_masked(text: str, clean: str | None) -> None:
    assert redact(text) == (text if clean is None else clean)


def test_a_long_text_is_read_once() -> None:
    # Read again from each character, it takes hours.
    assert redact("x" * 1_000_000 + f" {ADDRESS}") == "x" * 1_000_000 + " <address>"


SECRETS = [
    ADDRESS,
    f"key {KEY}",
    {"person": ADDRESS},
    {ADDRESS: 1},
    [[{"deep": (ADDRESS, KEY)}]],
    {ADDRESS},
    ValueError(f"{ADDRESS} is no good for {KEY}"),
    ADDRESS.encode(),
    {"api-key": "hunter2"},
    {"Authorization": "hunter2", "webhook_secret": "hunter2", "password": "hunter2"},
    {"x-jericommerce-hmac-sha256": "hunter2", "cookie": "hunter2"},
    Record("k", "u", "n", Millis(1), ADDRESS.encode(), email=ADDRESS),
]


@pytest.mark.parametrize("value", SECRETS)
@pytest.mark.parametrize("form", ["json", "console"])
def test_no_secret_is_logged_wherever_it_appears(
    stream: io.StringIO, value: Any, form: Any
) -> None:
    log.configure(format=form, stream=stream)
    log.get("test").info("something_happened", value=value)
    output = stream.getvalue()
    assert "something_happened" in output
    for secret in (ADDRESS, "ana@", KEY, "hunter2"):
        assert secret not in output


@pytest.mark.parametrize("name", ["token", "private_key", "api_key", "apikey", "client_secret"])
def test_a_value_under_a_secret_name_is_masked(lines: Lines, name: str) -> None:
    log.get("test").info("x", **{name: "hunter2"})
    [line] = lines()
    assert line[name] == "***"


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_text_of_an_exception_is_masked(stream: io.StringIO, form: Any) -> None:
    log.configure(format=form, stream=stream)
    try:
        try:
            raise KeyError(ADDRESS)
        except KeyError as error:
            raise ValueError(f"Bearer {KEY}") from error
    except ValueError:
        log.get("test").exception("it broke")
        logging.getLogger("library").exception("it broke for %s", ADDRESS)
    output = stream.getvalue()
    assert output.count("it broke") == 2
    assert output.count("\\nValueError: " if form == "json" else "\nValueError: ") == 2
    assert ADDRESS not in output
    assert KEY not in output


def test_a_line_is_json_with_its_level_time_and_part(lines: Lines) -> None:
    log.get("lane").warning("first\nsecond", count=3, ratio=0.5, none=None, flag=True)
    [line] = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "first\nsecond",
        "level": "warning",
        "part": "lane",
        "count": 3,
        "ratio": 0.5,
        "none": None,
        "flag": True,
    }


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters()),
        st.binary(max_size=5),
        st.datetimes(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.tuples(inner),
        st.dictionaries(st.one_of(st.text(), st.integers(), st.none()), inner, max_size=2),
    ),
    max_leaves=4,
)


@settings(deadline=None)
@given(value=ANYTHING)
def test_every_log_call_writes_one_json_line_and_never_raises(value: Any) -> None:
    stream = io.StringIO()
    log.configure(format="json", stream=stream)
    log.get("test").info("x", value=value)
    [line] = stream.getvalue().split("\n")[:-1]
    assert json.loads(line)["event"] == "x"


def test_a_warning_with_a_problem_code_says_what_to_do(lines: Lines) -> None:
    log.get("lanes").error("lane_blocked", problem="K401")
    log.get("lanes").info("lane_resumed", problem="K401")
    log.get("lanes").error("odd", problem="not a code")
    log.get("lanes").error("lane_blocked", problem="K600", connection="acme")
    blocked, resumed, odd, named = lines()
    assert blocked["remedy"] == Problem.KLAVIYO_KEY.remedy
    assert "`connector resume acme`" in named["remedy"]
    assert "remedy" not in resumed
    assert "remedy" not in odd


def test_standard_library_logging_uses_the_same_format(lines: Lines) -> None:
    logging.getLogger("uvicorn.error").warning("from %s", ADDRESS)
    logging.getLogger("httpx").info('HTTP Request: GET "https://x/?email=%s"', ADDRESS)
    [line] = lines()
    assert (line["event"], line["level"]) == ("from <address>", "warning")


def test_below_its_level_nothing_is_written(stream: io.StringIO) -> None:
    log.configure(format="json", level="error", stream=stream)
    log.get("test").warning("quiet")
    logging.getLogger("library").warning("quiet")
    assert stream.getvalue() == ""
    log.configure(format="json", level="debug", stream=stream)
    log.get("test").debug("loud")
    assert "loud" in stream.getvalue()


def test_configuring_again_does_not_write_twice(lines: Lines, stream: io.StringIO) -> None:
    log.configure(format="json", stream=stream)
    logging.getLogger("library").error("once")
    assert len(lines()) == 1
