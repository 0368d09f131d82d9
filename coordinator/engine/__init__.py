"""Batches of requests, step by step; knows workers as a protocol (executor.py)."""
