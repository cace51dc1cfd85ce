"""The connector between loyalty platforms and Klaviyo."""

__version__ = "0.1.0"
