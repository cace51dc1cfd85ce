"""Fakes of ports: a clock set by hand, scripted sinks, a store in memory."""
