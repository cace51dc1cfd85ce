"""The settings of a connection as a form: what is in effect, where it comes from, and what a
submitted form changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, SecretStr

from connector.config import Config, Connection
from connector.config.connections import Actions, Klaviyo
from connector.config.forms import FormField, InvalidEntry, form_fields

_LABELS = {"klaviyo.auth": "Access to Klaviyo", "actions.secret": "Secret of flow webhooks"}
Origin = Literal["file", "run time", "default"]


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting in effect. `text` is its value as the form shows it, `filled` whether a secret is
    there. What a file sets is changed there only. `by` and `at` (ms since 1970) say who set it at
    run time."""

    field: FormField
    text: str = ""
    filled: bool = False
    origin: Origin = "default"
    by: str = ""
    at: int | None = None

    @property
    def editable(self) -> bool:
        return self.origin != "file"


@dataclass(frozen=True, slots=True)
class Group:
    """Settings under one title. `more`: those with a default that fits most."""

    title: str
    settings: Sequence[Setting]
    more: Sequence[Setting] = ()

    @property
    def all(self) -> list[Setting]:
        return [*self.settings, *self.more]


@dataclass(slots=True)
class Entered:
    """What a submitted form sets and unsets; `faults` by key."""

    set: dict[str, Any] = field(default_factory=dict)
    unset: list[str] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


def groups_of(
    config: Config, name: str, title: str, model: type[BaseModel], *, main: Sequence[str]
) -> list[Group]:
    """The settings of a connection, which may be new. `main` are the platform's settings that
    belong on the first page besides those that are needed."""
    view = _View(config, name)
    platform = [view.setting(f) for f in form_fields(model, "settings.")]
    first = [s for s in platform if s.field.needed or s.field.key in main]
    flows = ("secret", "max_amount", "daily_per_person", "daily_total")
    return [
        Group(title, first, [s for s in platform if s not in first]),
        Group("Klaviyo", view.settings(Klaviyo, "klaviyo.", "auth", "private_key")),
        Group("Flows at Klaviyo", view.settings(Actions, "actions.", *flows)),
        Group(
            "Connection",
            view.settings(Connection, "", "mode"),
            view.settings(Connection, "", "tiers", "rewards"),
        ),
    ]


def entered(settings: Sequence[Setting], given: Mapping[str, str]) -> Entered:
    """What the form `given` changes. A secret that is left empty stays as it is; so does what the
    form does not have."""
    found = Entered()
    for setting in settings:
        key, text = setting.field.key, given.get(setting.field.key)
        if text is None or not setting.editable:
            continue
        text = text.strip().replace("\r\n", "\n")
        if text == setting.text.strip():
            continue
        if text == setting.field.default.strip():
            if setting.origin == "run time":
                found.unset.append(key)
            continue
        try:
            value = setting.field.read(text)
        except InvalidEntry as error:
            found.faults[key] = str(error)
            continue
        if setting.field.secret and not text:
            continue
        found.set[key] = value
    return found


def faults_by_key(name: str, faults: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Faults of this connection's settings by their keys, and all others."""
    keyed: dict[str, str] = {}
    others: list[str] = []
    prefix = f"connections.{name}."
    for fault in faults:
        key, separator, text = fault.removeprefix(prefix).partition(": ")
        if not fault.startswith(prefix) or not separator:
            others.append(fault)
            continue
        outer, inner = _field_of(key)
        keyed.setdefault(outer, f"{inner}: {text}" if inner else text)
    return keyed, others


def _field_of(key: str) -> tuple[str, str]:
    """The key that has a field, and what is inside of its value."""
    depth = 2 if key.startswith(("settings.", "klaviyo.", "actions.")) else 1
    parts = key.replace("[", ".").replace("]", "").split(".")
    return ".".join(parts[:depth]), ".".join(parts[depth:])


class _View:
    """Looks settings of one connection up."""

    def __init__(self, config: Config, name: str) -> None:
        self._config = config
        self._name = name
        self._made = {o.dotted: o for o in config.overrides if o.connection == name}
        try:
            self._connection: Connection | None = config.connection(name)
        except KeyError:
            self._connection = None

    def settings(self, model: type[BaseModel], prefix: str, *only: str) -> list[Setting]:
        return [self.setting(field) for field in form_fields(model, prefix, only)]

    def setting(self, field: FormField) -> Setting:
        field = replace(field, label=_LABELS.get(field.key, field.label))
        if self._connection is None:
            return Setting(field, text=field.default)
        value = self._value(field.key)
        origin = self._config.origin(f"connections.{self._name}.{field.key}")
        made = self._made.get(field.key) if origin == "run time" else None
        return Setting(
            field,
            text=field.written(_plain(value)),
            filled=_filled(value),
            origin=origin,
            by=made.by if made else "",
            at=made.at if made else None,
        )

    def _value(self, key: str) -> Any:
        value: Any = self._connection
        for part in key.split("."):
            value = getattr(value, part, None)
        # Durations are written as in a file.
        owner: Any = self._connection
        for part in key.split(".")[:-1]:
            owner = getattr(owner, part, None)
        if isinstance(owner, BaseModel) and not _holds_secret(value):
            return owner.model_dump(mode="json", include={key.split(".")[-1]}).get(
                key.split(".")[-1]
            )
        return value


def _holds_secret(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_secret, value.values()))
    if isinstance(value, tuple | list):
        return any(map(_holds_secret, value))
    return isinstance(value, SecretStr)


def _filled(value: Any) -> bool:
    if isinstance(value, SecretStr):
        return bool(value.get_secret_value())
    return bool(value)


def _plain(value: Any) -> Any:
    return None if value in ("", (), [], {}) else value
