"""`numoe load`: the command, its table and its picture."""
