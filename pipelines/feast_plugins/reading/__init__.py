"""Online reads: planned once, asked for in one round trip, decoded by column."""
