"""The service: requests in, replies out."""
