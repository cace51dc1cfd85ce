"""E-mail addresses from a CSV file, a batch at a time.

The delimiter is a comma, semicolon, tab or vertical bar; quotes, header and byte order mark are
optional; the encoding is UTF-8 or any that writes addresses as ASCII. The cursor is the byte and
the line after the last record read, so memory does not depend on the size of the file.
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
    """The file cannot be used. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the addresses are: `column` counts from 0; `start` (in bytes) and `line` are the
    position of the first record, after byte order mark and header."""

    delimiter: str
    column: int
    start: int
    line: int
    header: str | None


@dataclass(frozen=True, slots=True)
class Position:
    """A position between two records: the bytes and lines before it."""

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
    """Consecutive records: `good` addresses, and (line, reason) of the `bad` ones."""

    good: list[str]
    bad: list[tuple[int, str]]
    next_position: Position
    more: bool


def fingerprint(path: Path) -> str:
    """Size, modification time and a hash of the first 64 KiB. Raises FileError."""
    try:
        with path.open("rb") as file:
            head = hashlib.blake2b(file.read(_SAMPLE_SIZE), digest_size=8).hexdigest()
        info = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return f"{info.st_size}:{info.st_mtime_ns}:{head}"


def count_lines(path: Path) -> int:
    """Number of lines, about that of the records and the header. Reads the whole file."""
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(_MAX_LINE), b""):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return lines + (last != b"\n")


def detect_layout(path: Path) -> Layout:
    """Detect the layout from the first 64 KiB. Raises FileError."""
    try:
        with path.open("rb") as file:
            sample = file.read(_SAMPLE_SIZE)
    except OSError as error:
        raise _unreadable(path, error) from error
    if sample[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in sample:
        raise FileError(f"{path} is not a text file, or is in UTF-16; save it as CSV in UTF-8")
    start = 3 if sample[:3] == b"\xef\xbb\xbf" else 0
    lines = BytesIO(sample[start:]).readlines()
    if len(lines) == 1 and sample.count(b"\r") > 1:
        raise FileError(f"lines of {path} end with carriage returns alone; save it as CSV in UTF-8")
    if len(sample) == _SAMPLE_SIZE and len(lines) > 1:
        lines.pop()  # The sample may end within this line.
    if not any(line.strip() for line in lines):
        raise FileError(f"{path} is empty; it needs a column of e-mail addresses")
    # An address may contain a vertical bar, so more columns win where the addresses are as many.
    count, _, column, delimiter = max(
        (_score_delimiter(lines, delimiter) for delimiter in _DELIMITERS),
        key=lambda candidate: candidate[:2],
    )
    if not count:
        raise FileError(
            f"no column of {path} has e-mail addresses; separate values by , ; tab or |"
        )
    first = next(_records(lines, delimiter))
    header = _cell(first.cells, column)
    if header is not None and "@" not in header:
        return Layout(delimiter, column, start + first.bytes, first.lines, header)
    return Layout(delimiter, column, start, 0, None)


def read_batch(path: Path, layout: Layout, cursor: str | None, limit: int) -> AddressBatch:
    """Up to `limit` records after the cursor. Raises FileError."""
    position = Position.parse(cursor) if cursor else Position(layout.start, layout.line)
    good: list[str] = []
    bad: list[tuple[int, str]] = []
    count = 0
    try:
        with path.open("rb") as file:
            file.seek(position.byte)
            for record in islice(_records(_lines(file), layout.delimiter), limit):
                count += 1
                address, reason = _address(record, layout.column)
                if address:
                    good.append(address)
                elif reason:
                    bad.append((position.line + 1, reason))
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
    """Each record with its size in the file. A record that cannot be parsed has no cells. A quote
    that is not closed makes its own line unreadable and no other."""
    lines = iter(source)
    pushed_back: list[bytes] = []
    while (first := pushed_back.pop() if pushed_back else next(lines, None)) is not None:
        consumed, unterminated = [first], False

        def text(consumed: list[bytes] = consumed) -> Iterator[str]:
            nonlocal unterminated
            # Addresses are ASCII in every encoding that is accepted.
            yield consumed[0].decode("utf-8", errors="replace")
            while len(consumed) < _MAX_RECORD_LINES:
                line = pushed_back.pop() if pushed_back else next(lines, None)
                if line is None:
                    break
                consumed.append(line)
                yield line.decode("utf-8", errors="replace")
            unterminated = True

        try:
            # csv.reader takes only the lines that it needs.
            cells: list[str] | None = next(csv.reader(text(), delimiter=delimiter))
        except csv.Error:
            cells = None
        if cells is None or unterminated:
            cells = None
            pushed_back.extend(reversed(consumed[1:]))
            del consumed[1:]
        yield _Record(cells, sum(map(len, consumed)), len(consumed))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines, cut into pieces of 1 MiB, so that memory stays bounded."""
    return iter(lambda: file.readline(_MAX_LINE), b"")


def _address(record: _Record, column: int) -> tuple[str | None, str]:
    """(address, "") or (None, reason); (None, "") for an empty line."""
    if record.cells is None:
        return None, "cannot be read, perhaps a quote is not closed"
    if not any(cell.strip() for cell in record.cells):
        return None, ""
    cell = _cell(record.cells, column)
    if cell is None:
        return None, f"has {len(record.cells)} values, the address is number {column + 1}"
    address = cell.lower()
    if not address:
        return None, "has no address"
    return (address, "") if valid_email(address) else (None, "is not an e-mail address")


def _cell(cells: list[str] | None, column: int) -> str | None:
    return cells[column].strip() if cells is not None and column < len(cells) else None


def _score_delimiter(lines: list[bytes], delimiter: str) -> tuple[int, int, int, str]:
    """(addresses, columns, column of the addresses, delimiter). Of several columns with addresses
    the one with a known header is used, else the one with the most addresses."""
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
        f"{path} cannot be read here ({error.strerror}); place it where the process that runs the "
        "backfill can read it"
    )
