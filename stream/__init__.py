"""The ground floor: what travels between rooms, what carries it, and the join."""
