"""The White Label Loyalty sandbox."""
