"""Work that keeps many people in sync: backfills, memberships, polls, reconcile."""
