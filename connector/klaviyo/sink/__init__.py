"""What Klaviyo can be told."""
