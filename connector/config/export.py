"""The configuration in effect as files that lead to the same one in another folder.

References to variables and files stay references. A secret that is written out in a file, or was
set at run time, becomes a reference to a variable, which the result names.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

import tomli_w
from pydantic import BaseModel

from connector.config.faults import Loc, without_password
from connector.config.models import Config
from connector.config.values import is_secret, unwrap

_WITH_DEFAULT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*):-([^}]*)\}", re.ASCII)
_FILE = re.compile(r"\$\{file:([^}]*)\}")
_SQLITE = "sqlite:///"


@dataclass(slots=True)
class Export:
    """`text` is connector.toml. `variables`: name → the key whose secret it must hold."""

    text: str
    variables: dict[str, str] = field(default_factory=dict)


def export(config: Config, mappings: Mapping[str, str] | None = None) -> Export:
    """The configuration as one file. `mappings`: connection → its mapping file, relative to the new
    folder; without it the files in use are named by absolute paths, without the entries that were
    switched at run time.

    Raises ValueError for a configuration that was not loaded from a file.
    """
    if config._loaded is None:
        raise ValueError("only a configuration that was loaded from a file can be exported")
    tree = copy.deepcopy(config._loaded.written)
    made = Export("")
    tree["include"] = []
    folder = config._loaded.path.parent
    _hide_secrets(Config, tree, config, (), made.variables)
    _absolute_store(tree, config)
    for table, connection in zip(tree.get("connections", []), config.connections, strict=True):
        table["mapping"] = (mappings or {}).get(connection.name) or str(connection.mapping)
    tree = _absolute_files(tree, folder)
    lines = [f"# {name}: {key}" for name, key in made.variables.items()]
    head = ["# Set in the environment or in .env:", *lines, ""] if lines else []
    made.text = "\n".join([*head, tomli_w.dumps(tree)])
    return made


def _absolute_store(tree: dict[str, Any], config: Config) -> None:
    """An SQLite file relative to the old folder is named absolutely, also as a default."""
    store = tree.setdefault("store", {})
    if not config.store.url.startswith(_SQLITE):
        return
    written = store.get("url")
    match = _WITH_DEFAULT.fullmatch(written) if isinstance(written, str) else None
    if written is None:
        store["url"] = "${CONNECTOR_STORE_URL:-" + config.store.url + "}"
    elif match and match[2].startswith(_SQLITE) and config.store.url.endswith(match[2][10:]):
        store["url"] = "${" + match[1] + ":-" + config.store.url + "}"
    elif "${" not in written:
        store["url"] = config.store.url


def _absolute_files(value: Any, folder: Path) -> Any:
    """References to files, which are relative to the old folder, made absolute."""
    if isinstance(value, str):
        return _FILE.sub(lambda match: "${file:" + str(folder / match[1]) + "}", value)
    if isinstance(value, dict):
        return {key: _absolute_files(item, folder) for key, item in value.items()}
    return [_absolute_files(item, folder) for item in value] if isinstance(value, list) else value


def _hide_secrets(
    model: type[BaseModel], table: Any, value: Any, loc: Loc, variables: dict[str, str]
) -> None:
    """Replace what is written out in `table` where `model` has a secret. `value` is the validated
    table, which knows the model of a platform's settings."""
    for key, annotation in _fields(model):
        if not isinstance(table, dict) or key not in table:
            continue
        here, inner = (*loc, key), getattr(value, key, None)
        plain, _ = unwrap(annotation)
        if is_secret(annotation) or (key == "url" and without_password(str(inner)) != inner):
            table[key] = _reference(table[key], here, value, variables)
        elif isinstance(inner, BaseModel):
            _hide_secrets(type(inner), table[key], inner, here, variables)
        elif key == "settings" and isinstance(table[key], dict):
            table[key] = {
                name: _reference(item, (*here, name), value, variables)
                for name, item in table[key].items()
            }
        elif get_origin(plain) is tuple and isinstance(inner, tuple):
            item_model = get_args(plain)[0]
            if isinstance(item_model, type) and issubclass(item_model, BaseModel):
                for number, (entry, found) in enumerate(zip(table[key], inner, strict=True)):
                    label = getattr(found, "name", number)
                    _hide_secrets(item_model, entry, found, (*here, label), variables)


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for key, info in model.model_fields.items():
        yield key, info.annotation


def _reference(written: Any, loc: Loc, owner: Any, variables: dict[str, str]) -> Any:
    """A reference in place of a text; a text that is one already, and an empty one, stays."""
    if isinstance(written, list):
        return [_reference(item, (*loc, n), owner, variables) for n, item in enumerate(written)]
    if not isinstance(written, str) or not written or "${" in written.replace("$$", ""):
        return written
    parts = loc[1:] if loc[0] == "connections" else loc
    name = re.sub(r"[^A-Z0-9]+", "_", "_".join(map(str, parts)).upper())
    variables[name] = ".".join(map(str, loc))
    return "${" + name + "}"
