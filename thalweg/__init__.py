"""Command line, local stack, demo; may import every package."""
