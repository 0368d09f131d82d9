"""Anthropic's Messages API, in bytes: bodies become questions, events become events or whole messages."""
