"""The compiled step, and drawing tokens."""
