"""Sinks: what can be sent to Klaviyo.

    events      single requests, or up to 1,000 events in one; the outcome is known at once
    profiles    single requests, or an import job whose result is read later
    members     memberships of lists: import jobs for joins, single requests for leaves

`requests` is the base of all: one request for a batch, errors that name records, bisection.
`batches` and `jobs` are what bulk requests share.
"""
