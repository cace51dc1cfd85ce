"""People, their identifiers, groups, tombstones and erasure."""
