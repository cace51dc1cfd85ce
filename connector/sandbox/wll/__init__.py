"""White Label Loyalty, emulated."""
