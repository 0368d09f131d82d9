"""What is said between the parties: services, shared memory, messages, errors."""
