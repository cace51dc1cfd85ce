"""The JeriCommerce sandbox."""
