"""Backfills: many people page by page, behind all live traffic."""
