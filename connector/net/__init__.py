"""HTTP, authentication, retries and rate limits: one module for each outside concern."""
