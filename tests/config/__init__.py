"""The configuration: files in, models and faults out."""
