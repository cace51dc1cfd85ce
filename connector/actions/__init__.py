"""Actions at the loyalty platform: parsed strictly, stored once, applied at most once."""
