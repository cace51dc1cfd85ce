"""The Yotpo Loyalty sandbox."""
