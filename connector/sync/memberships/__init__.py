"""Memberships in both directions: a platform's audiences are kept as Klaviyo lists, Klaviyo's
segments as the platform's tags.

`scans` reads a group in full, on a schedule. `target_sync` decides what follows for its target and
`removals` asks a person before too many are removed. `platform_sink` sends changes to a platform,
`join_actions` queues the actions of people who joined a segment, `links` describes it all.
"""
