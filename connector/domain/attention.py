"""Results of checks and items that need a person's attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from connector.domain.errors import Problem, StoreError, StoreLocked
from connector.domain.lanes import Millis
from connector.domain.remedies import at_command_line


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `connector check`: what was checked, the result, and what to do about it."""

    name: str
    level: Literal["ok", "warning", "fault"]
    detail: str = ""
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Affected:
    """What of a connection waits for a problem that its other work may meet too. `work`: in the
    plural, as in "events wait", or "" where that is not known. `detail`: why, as far as it is not
    the problem's meaning."""

    connection: str
    work: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AttentionItem:
    """Something that needs a person. `key` identifies it: the same problem keeps the same key.

    `text` says what happened and what it affects, without the code; where it is about one
    connection, it begins with its name. `todo` says what to do, with the slots of
    connector.domain.remedies; the problem's advice where it is not given. `waits` is True where the
    remote side is away and the connector retries by itself: such an item needs a person only once
    it has lasted for `[[notify]] patience`. `since`: when it began, in ms since 1970; `retry_in`:
    seconds until the next attempt; both where they are known. `remote`: the destination that it
    waits for. Items of one connection and problem that say what is `affected` have one cause.
    """

    key: str
    text: str
    problem: Problem | None = None
    todo: str = ""
    since: Millis | None = None
    retry_in: float | None = None
    remote: str = ""
    affected: Affected | None = None

    @property
    def advice(self) -> str:
        return self.todo or (self.problem.advice if self.problem else "")

    @property
    def remedy(self) -> str:
        """What to do at the command line."""
        return at_command_line(self.advice, self.affected.connection if self.affected else "")

    @property
    def waits(self) -> bool:
        return self.problem is not None and self.problem.waits_for_remote

    def needs_person(self, now: Millis, patience: float) -> bool:
        """Whether it is a matter for a person now; `patience` in seconds."""
        if not self.waits:
            return True
        return self.since is not None and now - self.since >= patience * 1000

    @property
    def line(self) -> str:
        """The item in one line: `K401 acme: …; what to do: …`."""
        code = f"{self.problem} " if self.problem else ""
        return f"{code}{self.text}" + (f"; what to do: {self.remedy}" if self.remedy else "")


def store_item(error: StoreError) -> AttentionItem:
    """A failure of the store. Where its file is damaged, gone or locked, the text names it."""
    text = error.problem.meaning
    if error.problem in (Problem.STORE_REPLACED, Problem.STORE_DAMAGED):
        # What to do follows in the error's text, and in that of the problem.
        text = error.detail.partition("; ")[0]
    elif isinstance(error, StoreLocked):
        text = f"{text}: {error.detail}"
    elif error.detail != text:
        text = f"{text} ({error.detail})"
    return AttentionItem("store", text, error.problem)
