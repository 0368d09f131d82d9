"""The gRPC door: services, messages, statuses."""
