"""Process 2..N: one shard of the weights and its KV cache."""
