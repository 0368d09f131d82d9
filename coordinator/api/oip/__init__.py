"""The Open Inference Protocol: its messages to questions, and events to its messages. Calls are grpc/inference.py's."""
