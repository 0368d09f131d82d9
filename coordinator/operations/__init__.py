"""What operators see of a running service, and do to it, in no protocol's words."""
