"""Blocks of keys and values: who holds which, and what is in them."""
