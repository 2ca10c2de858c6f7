"""Builds versions in a process of their own."""
