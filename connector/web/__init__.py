"""What answers HTTP: webhooks, health and metrics. It knows ports and `operate`, nothing below."""
