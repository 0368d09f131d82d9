"""The whole experts of workers: how often each is chosen, which are to move, and how one does."""
