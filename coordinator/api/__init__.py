"""Answering: from what a client asked, in any protocol, to the engine and back."""
