"""What Klaviyo's templates have besides Django's: the filter that reads a name as it stands."""

from __future__ import annotations

from typing import Any

from django.template import Library

register = Library()


@register.filter
def lookup(value: Any, name: str) -> Any:
    return value.get(name, "") if isinstance(value, dict) else ""
