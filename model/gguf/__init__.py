"""GGUF files: what is in one, checked, and writing one."""
