"""A service under load: who asks what and when, over HTTP or gRPC, and what they had to wait for."""
