"""E-mail addresses and phone numbers that Klaviyo accepts."""

from __future__ import annotations

import re
from typing import Any

_EMAIL = re.compile(
    r"(?=.{6,254}\Z)(?=[^@]{1,64}@)"
    r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+(?:[a-z]{2,63}|xn--[a-z0-9-]{1,59})",
    re.ASCII,
)

# Tills write these for customers who gave no address. At Klaviyo they would become one profile with
# the points of all of them.
PLACEHOLDERS = frozenset(
    ("noemail", "no-email", "no_email", "no.email", "none", "null", "undefined", "unknown")
)
_UNROUTABLE_DOMAINS = (".invalid", ".localhost", ".local")


def valid_email(text: str) -> bool:
    """Whether a trimmed, lower-case text is an address that Klaviyo accepts: at most 254 ASCII
    characters, no placeholder such as `noemail@…`, no domain that cannot receive mail."""
    return (
        _EMAIL.fullmatch(text) is not None
        and text[: text.index("@")] not in PLACEHOLDERS
        and not text.endswith(_UNROUTABLE_DOMAINS)
    )


def e164(value: Any, region: str) -> str | None:
    """A phone number as `+34600000000`; None for anything else.

    `region` (ISO 3166, or "") is the country of numbers without a leading +.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if 0 < value < 10**15 else ""
    if not isinstance(value, str) or len(value) > 40:
        return None
    # Imported here: it takes some 20 MB and 100 ms, and many mappings have no phone numbers.
    import phonenumbers

    try:
        number = phonenumbers.parse(value, region or None)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def known_region(region: str) -> bool:
    """Whether phone numbers of this region (two capitals) can be parsed."""
    import phonenumbers

    return region in phonenumbers.SUPPORTED_REGIONS
