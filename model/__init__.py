"""What is served: the file, the architecture, the plan, the tokenizer, the chat template."""
