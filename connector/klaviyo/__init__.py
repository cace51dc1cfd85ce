"""Klaviyo: endpoints and limits, the HTTP API, sinks, and what is read back."""
