"""Arms, their statistics and reports: the simulated experiment, and a running A/B test."""
