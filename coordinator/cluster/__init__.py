"""Ray on this host: its processes, started and watched, and calls of it that nobody waits for in vain."""
