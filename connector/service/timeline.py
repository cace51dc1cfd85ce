"""One person as `connector explain --json` prints them. Times in ms since 1970 UTC."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from connector.service.status import View


class RequestView(View):
    """A request that was sent: a route template, never a URL with data in it."""

    id: str
    endpoint: str
    sent_at: int
    status: int | None = Field(description="Null when no answer came.")
    millis: int = Field(description="Until the answer.")
    problem: str | None


class TimelineLine(View):
    """One thing that happened to the person."""

    at: int
    what: str = Field(description="`event`, `write` or `action`.")
    name: str
    state: str
    problem: str | None
    detail: str
    data: Any = Field(description="The source's record, or the written fields.")
    request: RequestView | None = Field(description="What carried it.")


class ReadView(View):
    """The last read of the person at the platform."""

    state: str | None
    at: int | None
    unknown_since: int | None = Field(description="When the platform no longer knew the person.")


class WriteView(View):
    """The person's profile at Klaviyo."""

    state: str | None
    problem: str | None


class FieldView(View):
    """A profile field."""

    value: Any = Field(description="What it should be; null: unset.")
    confirmed: bool = Field(description="Whether Klaviyo has accepted that.")
    confirmed_at: int | None = Field(description="When Klaviyo last accepted a value of it.")


class PersonTimeline(View):
    """A person, oldest entry first."""

    platform_id: str | None
    email: str | None
    read: ReadView
    write: WriteView
    fields: dict[str, FieldView]
    timeline: list[TimelineLine]
