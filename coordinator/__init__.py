"""Process 1: requests, schedule, launching, services; never weights, never numba."""
