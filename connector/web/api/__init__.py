"""The admin API, `/api/v1`: the functions of connector.service as JSON.

Its document at `/api/openapi.json` is made of these functions and models. Errors are
`application/problem+json` (RFC 9457).
"""
