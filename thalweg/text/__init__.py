"""Durations, and what they mean for retention."""
