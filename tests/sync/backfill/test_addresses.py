"""Addresses from any CSV file; a bad row is reported with its line."""

from __future__ import annotations

import csv
import io
import random
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.mapping.address import valid_email
from connector.sync.backfill import addresses
from connector.sync.backfill.addresses import FileError

SLOW_OR_SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

WORDS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r"), max_size=9)
NAMES = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
EMAILS = st.builds(lambda name: f"{name}@example.com", NAMES).filter(valid_email)


def read_all(path: Path, limit: int = 3) -> tuple[list[str], list[tuple[int, str]]]:
    """Every address and every bad row, in batches of `limit`."""
    good: list[str] = []
    bad: list[tuple[int, str]] = []
    cursor: str | None = None
    while True:
        batch = addresses.read_batch(path, addresses.detect_layout(path), cursor, limit)
        good += batch.good
        bad += batch.bad
        cursor = str(batch.next_position)
        if not batch.more:
            return good, bad


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "people.csv"


@settings(
    max_examples=80,
    suppress_health_check=SLOW_OR_SHARED,
)
@given(
    rows=st.lists(st.tuples(EMAILS, st.lists(WORDS, min_size=2, max_size=2)), min_size=1),
    delimiter=st.sampled_from(",;\t|"),
    header=st.booleans(),
    column=st.integers(0, 2),
    byte_order_mark=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quote_all=st.booleans(),
    limit=st.integers(1, 5),
)
def test_every_address_is_found_however_the_file_is_written(
    file: Path,
    rows: list[tuple[str, list[str]]],
    delimiter: str,
    header: bool,
    column: int,
    byte_order_mark: bool,
    line_end: str,
    quote_all: bool,
    limit: int,
) -> None:
    def row(address: str, others: list[str]) -> list[str]:
        return [*others[:column], address, *others[column:]]

    text = io.StringIO()
    quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    if header:
        writer.writerow(row("E-Mail", ["name", "note"]))
    writer.writerows(row(email, [w.replace("@", "a") for w in words]) for email, words in rows)
    file.write_bytes((b"\xef\xbb\xbf" if byte_order_mark else b"") + text.getvalue().encode())
    good, bad = read_all(file, limit)
    assert good == [email for email, _ in rows]
    assert bad == []


def test_a_bad_row_is_reported_by_line_and_affects_no_other(file: Path) -> None:
    file.write_text(
        "id;mail\n"
        "1;ada@example.com\n"
        "2;no address here\n"
        "3\n"
        "\n"
        "4;\n"
        '5;"two\nlines"\n'
        '6;"never closed\n'
        "7;NOEMAIL@example.com\n"
        "8; Bob@Example.com \n"
    )
    good, bad = read_all(file)
    assert good == ["ada@example.com", "bob@example.com"]
    assert bad == [
        (3, "is not an e-mail address"),
        (4, "has 1 values, the address is number 2"),
        (6, "has no address"),
        (7, "is not an e-mail address"),
        (9, "cannot be read, perhaps a quote is not closed"),
        (10, "is not an e-mail address"),
    ]


def test_reading_resumes_exactly_after_the_cursor(file: Path) -> None:
    rng = random.Random(1)
    lines = ["email,note"] + [
        f'p{n}@example.com,"{"x" * rng.randrange(40)}{chr(10) * rng.randrange(3)}"'
        for n in range(300)
    ]
    file.write_text("\n".join(lines))
    layout = addresses.detect_layout(file)
    good: list[str] = []
    cursor: str | None = None
    while True:
        batch = addresses.read_batch(file, layout, cursor, rng.randrange(1, 9))
        good += batch.good
        cursor = str(batch.next_position)
        if not batch.more:
            break
    assert good == [f"p{n}@example.com" for n in range(300)]


@pytest.mark.parametrize(
    ("content", "expected_text"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"name,city\nAna,Madrid\n", "no column of .* has e-mail addresses"),
        ("email\nada@example.com\n".encode("utf-16"), "UTF-16"),
        (b"email\rada@example.com\rbob@example.com\r", "carriage returns"),
    ],
)
def test_a_file_without_addresses_is_refused_and_says_why(
    file: Path, content: bytes, expected_text: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(FileError, match=expected_text):
        addresses.detect_layout(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"nowhere\.csv cannot be read here"):
        addresses.detect_layout(tmp_path / "nowhere.csv")
    with pytest.raises(FileError, match="cannot be read here"):
        addresses.fingerprint(tmp_path / "nowhere.csv")


def test_of_two_columns_with_addresses_the_one_named_email_is_used(file: Path) -> None:
    file.write_text("friend,Email\na@example.com,b@example.com\nc@example.com,\n")
    assert read_all(file)[0] == ["b@example.com"]


def test_a_changed_file_has_another_fingerprint(file: Path) -> None:
    file.write_text("email\na@example.com\n")
    before = addresses.fingerprint(file)
    assert addresses.fingerprint(file) == before
    file.write_text("email\nb@example.com\n")
    assert addresses.fingerprint(file) != before


@pytest.mark.parametrize(("text", "lines"), [("", 0), ("a", 1), ("a\n", 1), ("a\nb", 2)])
def test_lines_are_counted_with_and_without_a_last_line_end(
    file: Path, text: str, lines: int
) -> None:
    file.write_text(text)
    assert addresses.count_lines(file) == lines
