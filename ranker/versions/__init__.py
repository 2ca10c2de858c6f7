"""Builds the serving model from snapshot manifests."""
