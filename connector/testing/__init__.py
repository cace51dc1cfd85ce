"""Fakes and contract suites that any adapter or store can run. Public and versioned."""

from __future__ import annotations

API_VERSION = 1
