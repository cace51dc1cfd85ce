"""One-shot backfills: people page by page, told at the pace that live traffic leaves."""
