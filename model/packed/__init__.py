"""A model's panels in a folder: what lies where, what it was packed from, and whether it is still that."""
