"""Measuring a model as it would be served: the workers of `numoe serve`, without engine and doors."""
