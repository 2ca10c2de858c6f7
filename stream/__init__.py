"""Shared base: events, log, features, join."""
