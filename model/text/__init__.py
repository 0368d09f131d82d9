"""From conversations and texts to token ids, and back: vocabulary, tokenizer, chat template."""
