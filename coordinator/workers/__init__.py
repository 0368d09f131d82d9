"""One host's group of worker processes: started through Ray, fed through the arena, watched, ended."""
