"""Exploration: which candidates a page shows that aren't the best known ones, and with what probability."""
