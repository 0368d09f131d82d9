"""Reads, measures and plans for this machine."""
