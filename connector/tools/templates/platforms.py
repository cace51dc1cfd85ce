"""The package that `connector new platform` writes. Its tests pass unchanged."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path

from connector.domain.errors import ConfigError
from connector.platforms import registry

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_FILES = {
    "README.md": "README.md.in",
    "pyproject.toml": "pyproject.toml.in",
    "{{package}}/__init__.py": "package/__init__.py.in",
    "{{package}}/settings.py": "package/settings.py.in",
    "{{package}}/view.py": "package/view.py.in",
    "{{package}}/webhook.py": "package/webhook.py.in",
    "{{package}}/api.py": "package/api.py.in",
    "{{package}}/reader.py": "package/reader.py.in",
    "mappings/{{name}}.toml": "mapping.toml.in",
    "mappings/examples/{{name}}/points-changed.json": "examples/points-changed.json.in",
    "mappings/examples/{{name}}/member-without-tier.json": "examples/member-without-tier.json.in",
    "tests/double.py": "tests/double.py.in",
    "tests/test_{{name}}.py": "tests/test_platform.py.in",
}


def write(folder: Path, name: str) -> list[str]:
    """Write a package for a platform into `folder`; returns one line per file.

    Raises ConfigError for a name that cannot be a source or is that of an installed platform, and
    for a folder that is not empty: nothing is overwritten.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(
            [f"found the name `{name}`, allowed a lower-case letter, then letters, digits and _"]
        )
    if name in registry.installed():
        raise ConfigError([f"a platform `{name}` is installed already; choose another name"])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError([f"{folder} exists and is not empty; choose another folder with --dir"])
    values = {
        "{{name}}": name,
        "{{package}}": f"{name}_connector",
        "{{title}}": name.replace("_", " ").title(),
        "{{host}}": name.replace("_", "-"),
    }
    templates = files("connector.tools.templates") / "platform"
    messages = []
    for target, source in _FILES.items():
        path = folder / _filled(target, values)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_filled((templates / source).read_text("utf-8"), values), "utf-8")
        messages.append(f"written  {path}")
    return [*messages, f"next: cd {folder}, run pytest, then read README.md"]


def _filled(text: str, values: dict[str, str]) -> str:
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text
