"""Worlds and replays that write events and ranking requests."""
