"""Limits failed authentications per client address."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from connector.ports import Clock

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_ADDRESSES = 1_000


class Throttle:
    """A token bucket of failures per address: `burst` at once, then one every `seconds`.

    Only the 1,000 addresses that failed last are remembered, so memory is bounded.
    """

    def __init__(self, clock: Clock, *, burst: int = 20, seconds: float = 1.0) -> None:
        self._clock = clock
        self._burst = burst
        self._seconds = seconds
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until this address may try again; 0: now."""
        return max(0.0, (self._recent_failures(address) - self._burst + 1) * self._seconds)

    def failed(self, address: str) -> None:
        recent = self._recent_failures(address) + 1
        self._failures[address] = (recent, self._clock.monotonic())
        self._failures.move_to_end(address)
        if len(self._failures) > _ADDRESSES:
            self._failures.popitem(last=False)

    def _recent_failures(self, address: str) -> float:
        """Failures that have not expired yet."""
        count, at = self._failures.get(address, (0.0, 0.0))
        return max(0.0, count - (self._clock.monotonic() - at) / self._seconds)


def client_address(
    scope: Mapping[str, Any], headers: Mapping[str, str], trusted_proxies: Sequence[Network]
) -> str:
    """The caller's address; of an IPv6 address its /64 network, because one caller has all of it.

    Behind a trusted proxy it is the last entry of X-Forwarded-For, which the proxy wrote. The
    entries before it come from the caller and prove nothing.
    """
    client = scope.get("client")
    peer = _address(client[0] if client else "")
    if peer is not None and any(peer in network for network in trusted_proxies):
        forwarded = headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
        peer = _address(forwarded) or peer
    if isinstance(peer, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((peer, 64), strict=False))
    return str(peer or "")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
