"""`[connections.settings]` of `source = "http"`: a platform that is described by settings alone.

docs/http-platform.md explains them with an example.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from connector.config import Allowed, Duration, PlatformSettings, Secrets, Section, setting
from connector.mapping import VIEW_PATHS, PathError, parse_path
from connector.platforms.http.template import placeholders
from connector.platforms.settings import Rate, strip_slash

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PERSON_FIELDS = tuple(
    word for word in VIEW_PATHS if not word.startswith("event.") and word not in ("extras", "raw")
)

PERSON_PLACEHOLDERS = ("email", "person")
"""Placeholders of a template that identify the person."""
ACTION_PLACEHOLDERS = (
    *PERSON_PLACEHOLDERS,
    "amount",
    "points",
    "direction",
    "reason",
    "ref",
    "earned",
    "visible",
)
"""Placeholders of an adjustment's template; docs/http-platform.md explains them."""


def _validate_path(text: str) -> str:
    if text:
        parse_path(text)
    return text


def _normalize_header(name: str) -> str:
    if name and not _TOKEN.fullmatch(name):
        raise ValueError("not a header's name")
    return name.lower()


def _validate_template(known: tuple[str, ...]) -> Callable[[Any], Any]:
    def checked(template: Any) -> Any:
        for name in placeholders(template):
            if name not in known:
                raise ValueError(f"there is no placeholder {{{name}}}")
        return template

    return checked


def _placeholder_list(names: tuple[str, ...]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


PathText = Annotated[
    str,
    AfterValidator(_validate_path),
    Allowed('a path such as customer.id, a."with space" or items[0]'),
]
HeaderName = Annotated[str, AfterValidator(_normalize_header), Allowed("a header's name")]
PersonPath = Annotated[
    str,
    Field(pattern=r"^/"),
    AfterValidator(_validate_template(PERSON_PLACEHOLDERS)),
    Allowed(f"a path that begins with / and may hold {_placeholder_list(PERSON_PLACEHOLDERS)}"),
]
ActionPath = Annotated[
    str,
    Field(pattern=r"^/"),
    AfterValidator(_validate_template(ACTION_PLACEHOLDERS)),
    Allowed(f"a path that begins with / and may hold {_placeholder_list(ACTION_PLACEHOLDERS)}"),
]
Body = Annotated[
    dict[str, Any] | list[Any],
    AfterValidator(_validate_template(ACTION_PLACEHOLDERS)),
    Allowed(f"a table or list whose texts may hold {_placeholder_list(ACTION_PLACEHOLDERS)}"),
]
Statuses = Annotated[
    tuple[Annotated[int, Field(ge=100, le=599)], ...], Allowed("a list of HTTP statuses")
]


class Event(Section):
    """`[connections.settings.event]`: where the parts of an event are in a webhook request."""

    items: PathText = setting(
        "", "Path of the list of events in a request; empty: the body is one event."
    )
    id: PathText = setting(
        "id", "Path of the event's id. Without a value there, a hash of the content is the id."
    )
    id_header: HeaderName = setting("", "The header that holds the id, instead of a path.")
    name: PathText = setting("name", "Path of the event's name.")
    name_header: HeaderName = setting("", "The header that holds the name, instead of a path.")
    time: PathText = setting(
        "time", "Path of the time: ISO 8601, or seconds or milliseconds since 1970."
    )
    person: PathText = setting("person", "Path of the platform's id of the person; may be empty.")
    email: PathText = setting("email", "Path of the person's address; may be empty.")
    properties: PathText = setting(
        "properties", "Path of what is sent to Klaviyo as the event's properties; empty: the event."
    )
    repeat_window: Duration = setting(
        "1h", "How long an event without an id and with the same content is the same event."
    )

    @model_validator(mode="after")
    def _one_event_per_header(self) -> Event:
        if self.items and (self.id_header or self.name_header):
            raise ValueError(
                "either items, or id_header and name_header: a header is about one event"
            )
        return self

    @field_validator("name", "time")
    @classmethod
    def _needed(cls, path: str) -> str:
        if not path:
            raise ValueError("empty")
        return path


class Profile(Section):
    """`[connections.settings.profile]`: how a person is read."""

    path: PersonPath = Field(description="What is requested, below base_url.")
    customer: PathText = setting(
        "", "Path of the person in the response; without a value there, the person is unknown."
    )
    person: PathText = setting(
        "", "Path of the id within the person; a different id than requested is another person."
    )
    view: Mapping[str, str] = Field(description="Field of the view → path within the person.")

    @field_validator("view")
    @classmethod
    def _check_view(cls, view: Mapping[str, str]) -> Mapping[str, str]:
        for word, path in view.items():
            if word not in _PERSON_FIELDS:
                raise ValueError(f'fields of the view, not "{word}": {", ".join(_PERSON_FIELDS)}')
            try:
                parse_path(path)
            except PathError as error:
                raise ValueError(f"paths such as customer.points; {word}: {error}") from None
        return view


class Adjust(Section):
    """`[connections.settings.adjust]`: how points are added and taken off."""

    method: Literal["POST", "PUT", "PATCH"] = setting("POST", "The request's method.")
    path: ActionPath = Field(description="Where it is sent, below base_url.")
    body: Body = Field(description="What is sent, as JSON.")
    applied: Statuses = setting(
        (), "Statuses that mean: applied. Empty: every 2xx. Any other 2xx is ambiguous."
    )
    refused: Statuses = setting(
        (400, 404, 409, 413, 422),
        "Statuses that mean: refused for good. Any other 4xx is ambiguous; those of "
        "[connections.actions] retry_statuses mean: not applied, try again.",
    )
    reference: PathText = setting("", "Path of the platform's own id of it in the response.")


class Settings(PlatformSettings):
    """The settings, frozen."""

    webhook_secret: Secrets = setting(
        (), "What requests are signed with, or the last part of their address; may be a list."
    )
    signature_header: HeaderName = setting(
        "", "The header with the HMAC-SHA256 of the body; empty: the secret is in the address."
    )
    signature_encoding: Literal["hex", "base64"] = setting("hex", "Encoding of the signature.")
    signature_prefix: str = setting("", 'Text before the signature, as in "sha256=".')
    base_url: Annotated[
        str,
        Field(pattern=r"^(https?://[^\s/]+|$)"),
        Allowed("an address that begins with https:// or http://, or nothing"),
        AfterValidator(strip_slash),
    ] = setting("", "Address of the platform's API, if it has one.")
    headers: Annotated[
        Mapping[str, SecretStr],
        Allowed("a table: header names of letters, digits and -, and texts"),
    ] = setting({}, "Headers of every call, such as the one with the key.")
    rate_per_second: Rate = setting(
        5, "Requests per second, over all connections with these headers."
    )
    event: Event = Field(default_factory=Event, description="Where the parts of an event are.")
    profile: Profile | None = setting(None, "How a person is read; without it people are not read.")
    adjust: Adjust | None = setting(None, "How points are changed; without it they cannot be.")

    @field_validator("headers")
    @classmethod
    def _check_header_names(cls, headers: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
        if "" in headers:
            raise ValueError("a header without a name")
        return {_normalize_header(name): value for name, value in headers.items()}

    @model_validator(mode="after")
    def _require_base_url(self) -> Settings:
        if (self.profile or self.adjust) and not self.base_url:
            raise ValueError("base_url beside profile and adjust")
        return self
