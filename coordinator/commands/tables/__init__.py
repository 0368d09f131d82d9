"""Tables and drawings for the terminal, made of what other rooms know."""
