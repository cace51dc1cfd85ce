"""Klaviyo: its limits, its HTTP, and the sinks that write to it."""
