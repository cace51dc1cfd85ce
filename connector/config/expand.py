"""Expansion of `${NAME}`, `${NAME:-default}`, `${file:/path}` and `$$` in strings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from connector.config.faults import Faults, Loc

_TOKEN = re.compile(r"\$\$|\$\{([^}]*)(\})?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SECRET_NAME = re.compile(r"secret|password|passwd|token|key|credential", re.IGNORECASE)


class ExpansionError(ValueError):
    """A reference that cannot be expanded. The text says which, and what is allowed."""


def escaped(text: str) -> str:
    """Escape `text` so that expansion returns it unchanged."""
    return text.replace("$", "$$")


class Expander:
    """Replaces references with values of `environ` and contents of files.

    `sensitive` collects the contents of files and the values of variables with secret-like names,
    so that a fault never shows one that was put into the wrong key.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.sensitive: set[str] = set()

    def text(self, written: str, folder: Path) -> str:
        """Expand every reference in `written`. Raises ExpansionError."""

        def replaced(match: re.Match[str]) -> str:
            if match[0] == "$$":
                return "$"
            if match[2] is None:
                raise ExpansionError("found ${ without }, allowed ${NAME}; a literal $ is $$")
            return self._value(match[1], folder)

        return _TOKEN.sub(replaced, written)

    def tree(self, value: Any, loc: Loc, folder_of: Callable[[Loc], Path], faults: Faults) -> Any:
        """A copy with all strings expanded. A string that cannot be is left out and is a fault."""
        if isinstance(value, str):
            return self.text(value, folder_of(loc))
        if not isinstance(value, dict | list):
            return value
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        done: dict[Any, Any] = {}
        for key, item in pairs:
            try:
                done[key] = self.tree(item, (*loc, key), folder_of, faults)
            except ExpansionError as error:
                faults.add((*loc, key), str(error))
        return done if isinstance(value, dict) else list(done.values())

    def _value(self, reference: str, folder: Path) -> str:
        if reference.startswith("file:"):
            return self._file(reference.removeprefix("file:"), folder)
        name, has_default, default = reference.partition(":-")
        if _NAME.fullmatch(name) is None or "${" in default:
            raise ExpansionError(
                "found a ${…} that cannot be parsed, allowed ${NAME}, ${NAME:-default} and "
                "${file:/path}, not nested; a literal $ is $$"
            )
        value = self._environ.get(name)
        if value and _SECRET_NAME.search(name):
            self.sensitive.add(value)
        if has_default:
            return value or default
        if value is None:
            raise ExpansionError(
                f"found ${{{name}}} but {name} is not set, allowed: set it in the environment or "
                f"in .env, or write ${{{name}:-default}}"
            )
        return value

    def _file(self, name: str, folder: Path) -> str:
        try:
            text = (folder / name).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise ExpansionError(
                f"found ${{file:{name}}}, which cannot be read ({reason}), allowed a readable file"
            ) from None
        text = text.removesuffix("\n")
        if text:
            self.sensitive.add(text)
        return text
