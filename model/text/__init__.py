"""Between text and token ids: vocabulary, tokenizer, chat template."""
