"""Addresses out of a file of separated values, a page at a time.

Any delimiter (comma, semicolon, tab, bar), quoted or not, with a header or without, with a byte
order mark or without, in UTF-8 or in any encoding that writes addresses as ASCII does. The cursor
is the byte and the line behind the last record that was read, so a file of any size takes the
memory of one page.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from connector.mapping.address import valid_email

_DELIMITERS = ",;\t|"
_SAMPLE_SIZE = 65_536
_MAX_LINE = 1_048_576
_MAX_RECORD_LINES = 100
_HEADER_NAMES = frozenset(
    ("email", "e-mail", "emailaddress", "e-mailaddress", "mail", "email_address", "e_mail")
)


class FileError(Exception):
    """The file cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the addresses stand: `column` counted from 0, `start` the byte and `line` of the
    first record, behind the byte order mark and the header."""

    delimiter: str
    column: int
    start: int
    line: int
    header: str | None


@dataclass(frozen=True, slots=True)
class Position:
    """Behind a record: its last byte, and how many lines there are before."""

    byte: int
    line: int

    def __str__(self) -> str:
        return f"{self.byte}:{self.line}"

    @classmethod
    def parse(cls, cursor: str) -> Position:
        byte, _, line = cursor.partition(":")
        return cls(int(byte), int(line))


@dataclass(frozen=True, slots=True)
class AddressBatch:
    """Records in a row: `good` addresses, and (line, why) of the others."""

    good: list[str]
    bad: list[tuple[int, str]]
    next_position: Position
    more: bool


def fingerprint(path: Path) -> str:
    """Changes when the file does: size, time of the last change and a hash of its beginning.
    Raises FileFault where it cannot be read."""
    try:
        with path.open("rb") as file:
            head = hashlib.blake2b(file.read(_SAMPLE_SIZE), digest_size=8).hexdigest()
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return f"{found.st_size}:{found.st_mtime_ns}:{head}"


def count_lines(path: Path) -> int:
    """About as many records, and one more for the header. Reads the file once."""
    with path.open("rb") as file:
        lines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_MAX_LINE), b""))
        if file.tell():
            file.seek(-1, 2)
            lines += file.read(1) != b"\n"
    return lines


def detect_layout(path: Path) -> Layout:
    """How the file is laid out, by its first 64 KiB. Raises FileFault."""
    try:
        with path.open("rb") as file:
            sample = file.read(_SAMPLE_SIZE)
    except OSError as error:
        raise _unreadable(path, error) from error
    if sample[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in sample:
        raise FileError(f"{path}: not a text file, or in UTF-16: save it as CSV in UTF-8")
    start = 3 if sample[:3] == b"\xef\xbb\xbf" else 0
    lines = BytesIO(sample[start:]).readlines()
    if len(lines) == 1 and sample.count(b"\r") > 1:
        raise FileError(f"{path}: lines end in carriage returns alone: save it as CSV in UTF-8")
    if len(sample) == _SAMPLE_SIZE and len(lines) > 1:
        lines.pop()  # cut in two
    if not any(line.strip() for line in lines):
        raise FileError(f"{path}: the file is empty")
    # A bar may stand in an address, so of two that find as many the one that parts more counts.
    found, _, column, delimiter = max(
        (_score_delimiter(lines, delimiter) for delimiter in _DELIMITERS),
        key=lambda candidate: candidate[:2],
    )
    if not found:
        raise FileError(
            f"{path}: no column holds e-mail addresses (tried , ; tab and | between values)"
        )
    first = next(_records(lines, delimiter))
    name = _cell(first.cells, column)
    if name is not None and "@" not in name:
        return Layout(delimiter, column, start + first.bytes, first.lines, name)
    return Layout(delimiter, column, start, 0, None)


def read_batch(path: Path, layout: Layout, cursor: str | None, limit: int) -> AddressBatch:
    """Up to `most` records behind the cursor. Raises FileFault."""
    position = Position.parse(cursor) if cursor else Position(layout.start, layout.line)
    good: list[str] = []
    bad: list[tuple[int, str]] = []
    count = 0
    try:
        with path.open("rb") as file:
            file.seek(position.byte)
            for record in islice(_records(_lines(file), layout.delimiter), limit):
                count += 1
                address, why = _address(record, layout.column)
                if address:
                    good.append(address)
                elif why:
                    bad.append((position.line + 1, why))
                position = Position(position.byte + record.bytes, position.line + record.lines)
    except OSError as error:
        raise _unreadable(path, error) from error
    return AddressBatch(good, bad, position, count == limit)


# ── records ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Record:
    cells: list[str] | None
    bytes: int
    lines: int


def _records(source: Iterable[bytes], delimiter: str) -> Iterator[_Record]:
    """Each record with what it takes in the file; one that cannot be read has no cells. A quote
    that is not closed costs its own line and none of those after it."""
    lines = iter(source)
    pushed_back: list[bytes] = []
    while (first := pushed_back.pop() if pushed_back else next(lines, None)) is not None:
        consumed, unterminated = [first], False

        def text(consumed: list[bytes] = consumed) -> Iterator[str]:
            nonlocal unterminated
            # Whatever the encoding, an address is ASCII.
            yield consumed[0].decode("utf-8", errors="replace")
            while len(consumed) < _MAX_RECORD_LINES:
                line = pushed_back.pop() if pushed_back else next(lines, None)
                if line is None:
                    break
                consumed.append(line)
                yield line.decode("utf-8", errors="replace")
            unterminated = True

        try:
            # The reader takes no line before it needs it.
            cells: list[str] | None = next(csv.reader(text(), delimiter=delimiter))
        except csv.Error:
            cells = None
        if cells is None or unterminated:
            cells = None
            pushed_back.extend(reversed(consumed[1:]))
            del consumed[1:]
        yield _Record(cells, sum(map(len, consumed)), len(consumed))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines, the longest cut in pieces so that none fills the memory."""
    return iter(lambda: file.readline(_MAX_LINE), b"")


def _address(record: _Record, column: int) -> tuple[str | None, str]:
    """(the address, "") or (None, why it is none); an empty line is neither."""
    if record.cells is None:
        return None, "cannot be read: a quote that is not closed?"
    if not any(cell.strip() for cell in record.cells):
        return None, ""
    cell = _cell(record.cells, column)
    if cell is None:
        return None, f"has {len(record.cells)} values, the address is number {column + 1}"
    address = cell.lower()
    if not address:
        return None, "has no address"
    return (address, "") if valid_email(address) else (None, "is no e-mail address")


def _cell(cells: list[str] | None, column: int) -> str | None:
    return cells[column].strip() if cells is not None and column < len(cells) else None


def _score_delimiter(lines: list[bytes], delimiter: str) -> tuple[int, int, int, str]:
    """(how many addresses, how many columns, which column holds them, the delimiter). Of columns
    with addresses one whose header says so is taken, else the one with the most."""
    rows = [record.cells for record in _records(lines, delimiter) if record.cells]
    width = max((len(cells) for cells in rows), default=0)
    counts = [
        sum(valid_email((_cell(cells, column) or "").lower()) for cells in rows)
        for column in range(width)
    ]
    if not any(counts):
        return 0, width, 0, delimiter
    by_header = [
        column
        for column in range(width)
        if counts[column]
        and (_cell(rows[0], column) or "").lower().replace(" ", "") in _HEADER_NAMES
    ]
    best = by_header[0] if by_header else max(range(width), key=counts.__getitem__)
    return counts[best], width, best, delimiter


def _unreadable(path: Path, error: OSError) -> FileError:
    return FileError(
        f"{path} cannot be read here ({error.strerror}); the process that does the work must be "
        "able to read it"
    )
