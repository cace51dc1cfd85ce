"""Lanes, leases, approvals, backfills, dead letters, reports, integrity."""
