"""Model files that numoe writes itself: the demo, and models of any shape with random weights."""
