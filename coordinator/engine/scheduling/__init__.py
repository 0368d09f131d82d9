"""What runs in the next step: pure decisions."""
