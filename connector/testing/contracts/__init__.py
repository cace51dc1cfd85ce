"""Contract suites that every adapter and store runs."""
