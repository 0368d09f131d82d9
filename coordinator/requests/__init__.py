"""One request: what is asked, the events that answer it, the text that a client sees."""
