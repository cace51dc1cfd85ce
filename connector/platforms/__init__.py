"""Loyalty platforms, one folder each, and what their adapters share."""
