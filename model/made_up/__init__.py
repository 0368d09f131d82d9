"""Models that numoe makes itself: the demo, and synthetic models of any shape with random weights."""
