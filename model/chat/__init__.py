"""What an answer to a conversation consists of: thoughts, content and calls of tools, in the format of each model."""
