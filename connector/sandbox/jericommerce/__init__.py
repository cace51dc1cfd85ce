"""JeriCommerce, emulated."""
