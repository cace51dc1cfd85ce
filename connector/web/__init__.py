"""The HTTP server: webhooks, flow calls, health and metrics."""
