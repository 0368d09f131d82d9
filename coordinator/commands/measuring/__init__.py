"""The commands that measure a model: `numoe bench`, `numoe sweep-bench`, `numoe perplexity`."""
