"""Requests, batches and tokens; knows workers as a protocol (executor.py)."""
