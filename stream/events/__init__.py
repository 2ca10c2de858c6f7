"""Events: types, bytes, limits, topics."""
