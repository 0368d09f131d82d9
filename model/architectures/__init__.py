"""What a model consists of: its sizes and tensors, one file per architecture."""
