"""What is shown on a terminal while something takes long, and how every command ends in a line."""
