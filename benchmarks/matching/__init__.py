"""Which layer feeds which, and will it work: maps that are known, pairs that are related or not."""
