"""Which hosts are this machine."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine: `localhost` and every name below it
    (RFC 6761, section 6.3: they always resolve to loopback), 127.0.0.0/8 and ::1. A name that only
    begins with `127.` does not."""
    labels = host.lower().removesuffix(".").split(".")
    if labels[-1] == "localhost":
        return all(labels)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
