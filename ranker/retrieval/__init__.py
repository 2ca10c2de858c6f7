"""Retrieval: which items are candidates of a request that names none. Sources, one a file, each with its quota."""
