"""Problems of the process itself, as opposed to those of a lane, a worker or a person."""

from __future__ import annotations


class ProcessProblems:
    """Texts by key; a key stays the same while the problem is the same."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def set(self, key: str, text: str | None) -> None:
        """None: it is over."""
        if text:
            self._texts[key] = text
        else:
            self._texts.pop(key, None)

    def texts(self, prefix: str = "") -> list[str]:
        return [text for key, text in self._texts.items() if key.startswith(prefix)]

    def __contains__(self, key: str) -> bool:
        return key in self._texts
