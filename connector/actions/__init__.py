"""What Klaviyo's flows ask of a platform: read strictly, stored once, applied at most once."""
