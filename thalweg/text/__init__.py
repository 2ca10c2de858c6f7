"""Durations for people, and the check of retention against them."""
