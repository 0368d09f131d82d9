"""The processor: instruction sets, compiling for them, vectors as values."""
