"""Klaviyo's template filter that Django lacks: `lookup` reads a property with any name."""

from __future__ import annotations

from typing import Any

from django.template import Library

register = Library()


@register.filter
def lookup(value: Any, name: str) -> Any:
    return value.get(name, "") if isinstance(value, dict) else ""
