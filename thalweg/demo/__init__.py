"""The demo: every service as a process, questions all the while, what came of it."""
