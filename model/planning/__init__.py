"""Which worker owns which rows, heads and experts, how much memory that takes, and how it may change."""
