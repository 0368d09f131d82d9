"""What a person types and sees: main.py lists the commands, each family has a file, and their tables are in tables/."""
