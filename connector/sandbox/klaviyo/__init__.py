"""Klaviyo, emulated."""
