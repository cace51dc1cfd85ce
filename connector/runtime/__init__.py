"""The process: clock, log, metrics, scheduler, group commit."""
