"""Measures the cost of the connector against the minimum for the same work (README.md)."""
