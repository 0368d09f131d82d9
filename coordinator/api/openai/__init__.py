"""OpenAI's API, in bytes: bodies become questions, events become chunks or whole answers."""
