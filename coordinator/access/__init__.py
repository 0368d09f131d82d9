"""Who may ask: roles, the keys that have them, and the certificates that connections are encrypted with."""
