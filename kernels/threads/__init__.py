"""How threads wait for each other and share work out."""
