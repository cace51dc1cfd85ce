"""Problems of the process itself, as opposed to those of a lane, a worker or a person."""

from __future__ import annotations

from connector.domain.attention import Affected, AttentionItem
from connector.domain.errors import Problem


class ProcessProblems:
    """Attention items by key; a key stays the same while the problem is the same."""

    def __init__(self) -> None:
        self._items: dict[str, AttentionItem] = {}

    def set(
        self,
        key: str,
        problem: Problem,
        text: str = "",
        *,
        connection: str = "",
        remote: str = "",
    ) -> None:
        """It is there. `text` says more than the problem's meaning, `remote` what it waits for."""
        affected = Affected(connection, "") if connection else None
        text = text or problem.meaning
        self._items[key] = AttentionItem(key, text, problem, remote=remote, affected=affected)

    def clear(self, key: str) -> None:
        """It is over."""
        self._items.pop(key, None)

    def items(self, prefix: str = "") -> list[AttentionItem]:
        return [item for key, item in self._items.items() if key.startswith(prefix)]

    def __contains__(self, key: str) -> bool:
        return key in self._items
