"""Routing tokens to experts, and the feed-forward."""
