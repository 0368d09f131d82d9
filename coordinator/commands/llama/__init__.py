"""What users of llama.cpp type."""
