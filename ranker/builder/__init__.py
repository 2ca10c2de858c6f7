"""Versions are built in a process of their own."""
