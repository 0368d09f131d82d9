"""Asking a running service: the connection, how long it is waited for, answers and conversations as they are shown."""
