"""HTTP, what its answers mean, authentication, retries and rate limits."""
