"""The doctor: checks of a machine for what slows models down; each finding has its cost and its remedy."""
