"""What is set up before a service starts: who may ask it, and what its settings come to."""
