"""One-shot backfills: people page by page from a source, told at the pace that live traffic leaves."""
