"""What travels through the log: types, bytes, limits, topics."""
