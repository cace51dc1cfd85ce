"""The daemon: what starts and stops in which order, and how a connection is put together."""
