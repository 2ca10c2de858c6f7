"""Experiments: arms that rank a simulated store's pages in a closed loop, and their A/B statistics."""
