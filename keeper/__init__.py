"""The keeper: a small process that holds the memory of weights beyond the end of the workers that map it."""
