"""Matrix products: activations in groups, tiles, and claiming panels."""
