"""GGUF files: reading one, which may be damaged or hostile, and writing one."""
