"""Loads a `Config` from files: read, fill in, expand, validate, check."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from connector.config.cross_checks import check
from connector.config.expand import Expander, ExpansionError, escaped
from connector.config.faults import Faults, Loc, connection_label, type_at
from connector.config.files import MergedFiles, environment, read
from connector.config.models import Config
from connector.config.overrides import UNSET_HINT, Applied, Override, apply
from connector.config.shipped import shipped_mappings
from connector.config.values import FROM_FILE, field_option, unwrap
from connector.domain.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


_BOOTSTRAP = ("store", "security", "log")
"""Sections that are needed to read the overrides."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Where a configuration came from: what reads it again, and the files' content with the
    overrides, unexpanded. `faults` is not empty for an incomplete one."""

    path: Path
    environ: Mapping[str, str] | None
    settings_models: Mapping[str, type[BaseModel] | None] | None
    overrides: tuple[Override, ...]
    written: dict[str, Any]
    applied: Applied
    faults: tuple[str, ...]


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    settings_models: Mapping[str, type[BaseModel] | None] | None = None,
    overrides: Sequence[Override] = (),
    complete: bool = True,
) -> Config:
    """Load the configuration from `path`, else `CONNECTOR_CONFIG`, else ./connector.toml.

    `environ` replaces the process's environment. `settings_models` (source → model) validates
    `[connections.settings]`; only `get`, `in` and iteration are used, so it may import lazily.
    Without it, or with None for a model, settings stay plain dicts. `overrides` lie below the
    files. Raises ConfigError with all faults.

    With `complete=False` the result is what is valid, if that suffices to open the store, where
    overrides may complete it: see `with_overrides`.
    """
    real = os.environ if environ is None else environ
    path = config_path(path, real)
    faults = Faults()
    expander = Expander(environment(path.parent, real))
    faults.sensitive = expander.sensitive
    merged = read(path, expander, faults)
    written = faults.written = copy.deepcopy(merged.tree)
    applied = apply(written, overrides, lambda name: _expanded(expander, str(name), path.parent))
    exported = copy.deepcopy(written)
    _fill(Config, written, settings_models or {})
    tree = expander.tree(written, (), merged.folder_of, faults)
    labels = copy.deepcopy(tree)
    _resolve(tree, merged)
    _read_settings(tree, settings_models, faults)
    config = _validated(Config, tree, (), faults)
    if config is not None:
        check(config, faults)
    lines = merged.unreadable + _with_origin(faults.lines(labels), applied)
    needed = complete or merged.unreadable or any(x.startswith(_BOOTSTRAP) for x in lines)
    if config is None or (lines and needed):
        raise ConfigError(lines)
    config._files = tuple(merged.files)
    config._written = frozenset(_keys(merged.tree, labels))
    config._loaded = Loaded(
        path, environ, settings_models, tuple(overrides), exported, applied, tuple(lines)
    )
    for connection in config.connections:
        connection._mapping_changes = applied.mapping.get(connection.name, {})
    return config


def with_overrides(config: Config, overrides: Sequence[Override]) -> Config:
    """The configuration with these overrides and no others: read again from its files, unless it
    has just these. Raises ConfigError with all faults."""
    loaded: Loaded | None = config._loaded
    if loaded is None or (loaded.overrides == tuple(overrides) and not loaded.faults):
        return config
    return load(
        loaded.path,
        environ=loaded.environ,
        settings_models=loaded.settings_models,
        overrides=overrides,
    )


def _expanded(expander: Expander, written: str, folder: Path) -> str:
    try:
        return expander.text(written, folder)
    except ExpansionError:
        return written


def _with_origin(lines: Sequence[str], applied: Applied) -> list[str]:
    """Faults of a setting made at run time say so, and how to remove it."""
    keys = {f"connections.{o.connection}.{o.dotted}": o for o in applied.effective}
    found = []
    for line in lines:
        for key, override in keys.items():
            if line.startswith((f"{key}:", f"{key}.")):
                name = override.connection
                line += f"{UNSET_HINT}{name} {override.dotted}`)"
        found.append(line)
    return found


def config_path(path: Path | None, environ: Mapping[str, str]) -> Path:
    """The file that is read, absolute."""
    return Path(path or environ.get("CONNECTOR_CONFIG") or "connector.toml").absolute()


def load_sections(
    tree: dict[str, Any], path: Path, expander: Expander, faults: Faults
) -> Config | None:
    """A configuration of these sections of `path` alone. Adds to `faults`; what is faulty has its
    default."""
    _fill(Config, tree, {})
    merged = MergedFiles(path=path, tree=tree)
    expanded = expander.tree(tree, (), merged.folder_of, faults)
    _resolve(expanded, merged)
    return _validated(Config, expanded, (), faults)


def _tables(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _fill(
    model: type[BaseModel], table: dict[str, Any], settings: Mapping[str, type[BaseModel] | None]
) -> None:
    """Write the defaults that name a variable into `table`, as if the file had them."""
    for key, field in model.model_fields.items():
        plain, _ = unwrap(field.annotation)
        env = field_option(field, "env")
        if env and key not in table:
            default = field.default if isinstance(field.default, str) else ""
            table[key] = f"${{{env}:-{escaped(default)}}}"
        elif key == "settings" and model.__name__ == "Connection":
            inner = settings.get(str(table.get("source")))
            if inner is not None and isinstance(table.setdefault(key, {}), dict):
                _fill(inner, table[key], settings)
        elif isinstance(plain, type) and issubclass(plain, BaseModel):
            # A section whose absence has a meaning (actions) is not created.
            if key in table or field.default_factory is not None:
                section = table.setdefault(key, {})
                if isinstance(section, dict):
                    _fill(plain, section, settings)
        elif get_origin(plain) is tuple:
            item = get_args(plain)[0]
            if isinstance(item, type) and issubclass(item, BaseModel):
                for entry in _tables(table.get(key)):
                    _fill(item, entry, settings)


def _resolve(tree: dict[str, Any], merged: MergedFiles) -> None:
    """Make paths absolute, relative to the folder of the file that set them."""
    store = tree.get("store")
    if isinstance(store, dict) and isinstance(store.get("url"), str):
        store["url"] = _store_url(store["url"], merged.folder_of(("store", "url")))
    connections = tree.get("connections")
    for index, item in enumerate(connections if isinstance(connections, list) else []):
        if not isinstance(item, dict):
            continue
        folder = merged.folder_of(("connections", index))
        if "mapping" not in item:
            item["mapping"] = "mappings/{source}.toml"
            folder = merged.path.parent
            name = str(item.get("source")).rpartition(":")[2].lower() + ".toml"
            shipped = shipped_mappings() / name
            made_at_run_time = index >= len(merged.tree.get("connections", ()))
            if made_at_run_time and not (folder / "mappings" / name).exists() and shipped.exists():
                item["mapping"] = str(shipped)
        if isinstance(item["mapping"], str) and item["mapping"]:
            item["mapping"] = str(folder / item["mapping"])


def _store_url(url: str, folder: Path) -> str:
    name = url.removeprefix("sqlite:///")
    if name == url or name.startswith("/") or name in ("", ":memory:"):
        return url
    return f"sqlite:///{folder / name}"


def _read_settings(
    tree: dict[str, Any], models: Mapping[str, type[BaseModel] | None] | None, faults: Faults
) -> None:
    """Replace each settings table with an instance of the platform's model."""
    connections = tree.get("connections")
    for index, item in enumerate(connections if isinstance(connections, list) else []):
        if not isinstance(item, dict):
            continue
        loc: Loc = ("connections", index, "settings")
        raw = item.setdefault("settings", {})
        if not isinstance(raw, dict):
            faults.add(loc, f"found {faults.quote(raw, hidden=True)}, allowed a table")
            raw = item["settings"] = {}
        source = item.get("source")
        if models is None or not isinstance(source, str) or not source:
            continue
        if source not in models:
            faults.add((*loc[:2], "source"), _unknown_source(source, models, faults))
        elif model := models.get(source):
            item["settings"] = _validated(model, raw, loc, faults) or {}


def _unknown_source(source: str, models: Mapping[str, Any], faults: Faults) -> str:
    known = sorted(models)
    text = f"found {faults.quote(source)}, allowed " + " | ".join(f'"{name}"' for name in known)
    close = difflib.get_close_matches(source, known, n=1)
    return text + (f'; did you mean "{close[0]}"?' if close else "")


def _validated(
    model: type[Model], tree: dict[str, Any], prefix: Loc, faults: Faults
) -> Model | None:
    """The validated model. After faults, that of the valid part, so that cross checks see it."""
    try:
        return model.model_validate(tree, context=FROM_FILE)
    except ValidationError as error:
        faults.add_errors(error, model, prefix)
        # Backwards, so that a removal from a list does not shift the ones still to be removed.
        for number, item in reversed(list(enumerate(error.errors(include_url=False)))):
            _drop(model, tree, item["loc"], number)
    try:
        return model.model_validate(tree, context=FROM_FILE)
    except ValidationError:
        return None


def _drop(model: type[BaseModel], tree: dict[str, Any], loc: Loc, number: int) -> None:
    if not loc:
        return
    holder: Any = tree
    for part in loc[:-1]:
        try:
            holder = holder[part]
        except (KeyError, IndexError, TypeError):
            return
    key = loc[-1]
    required = isinstance(key, str) and _placeholder(model, loc, number)
    if required and isinstance(holder, dict):
        holder[key] = required
    elif loc[:1] == ("connections",) and len(loc) == 2 and isinstance(key, int):
        holder[key] = {"name": f"connection-{number}", "source": "unknown", "enabled": False}
    elif isinstance(holder, dict):
        holder.pop(key, None)
    elif isinstance(holder, list) and isinstance(key, int) and key < len(holder):
        del holder[key]


def _placeholder(model: type[BaseModel], loc: Loc, number: int) -> str | int | None:
    """A valid, unique value for a required key that is missing or invalid."""
    table: Any = type_at(model, loc[:-1])[0]
    field = getattr(table, "model_fields", {}).get(loc[-1])
    if field is None or not field.is_required():
        return None
    if loc[-1] == "action":
        return "push"
    return number if unwrap(field.annotation)[0] is int else f"placeholder-{number}"


def _keys(value: object, labels: dict[str, Any], prefix: str = "") -> list[str]:
    """All dotted keys that the files set; connections by name."""
    found: list[str] = []
    pairs: list[tuple[str, object]] = []
    if isinstance(value, dict):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and prefix == "connections":
        connections = labels.get("connections")
        pairs = [(connection_label(connections, n), item) for n, item in enumerate(value)]
    elif isinstance(value, list):
        pairs = [(str(n), item) for n, item in enumerate(value) if isinstance(item, dict)]
    for key, item in pairs:
        dotted = f"{prefix}.{key}" if prefix else key
        found += [dotted, *_keys(item, labels, dotted)]
    return found
