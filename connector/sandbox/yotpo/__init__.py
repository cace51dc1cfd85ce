"""Yotpo Loyalty, emulated."""
