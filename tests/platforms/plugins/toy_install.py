"""Installs a package without pip and network: its modules and their metadata on a path."""

from __future__ import annotations

import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connector.mapping import files, functions
from connector.platforms import registry

TOY = Path(__file__).parent / "toy"


def install(package: Path, target: Path) -> None:
    """Install what the package's pyproject.toml declares: name, version, entry points, modules."""
    pyproject = tomllib.loads((package / "pyproject.toml").read_text())
    name, version = pyproject["project"]["name"], pyproject["project"]["version"]
    for module in pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        found = package / module
        copy = shutil.copytree if found.is_dir() else shutil.copy
        copy(found, target / module)
    info = target / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, points in pyproject["project"]["entry-points"].items():
        lines += [f"[{group}]", *(f"{point} = {value}" for point, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@contextmanager
def on_path(target: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Import from this folder within the block; its modules are dropped afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(target)
    forget_installed()
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(target)):
                del sys.modules[name]
        monkeypatch.undo()
        forget_installed()


def forget_installed() -> None:
    """What a process looks up once, and what was made of it."""
    functions.installed.cache_clear()
    registry.installed.cache_clear()
    files.compiled.cache_clear()
