"""A user's own data: surveyed, checked, and a spec drafted for it."""
