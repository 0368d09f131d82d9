"""The worker process: the shard it holds and the threads that compute."""
