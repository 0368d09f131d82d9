"""What a text is guessed to go on with, and how much of it is worth running before it is known."""
