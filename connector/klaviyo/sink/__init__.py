"""Sinks: what can be sent to Klaviyo."""
