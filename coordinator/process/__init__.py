"""The life of `numoe serve`: start, load, serve, drain, end."""
