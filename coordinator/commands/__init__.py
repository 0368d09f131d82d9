"""What a person types and sees: one file per family of commands; their tables are in tables/."""
