"""Backtests: a source joined and learned in one process, beside peers."""
