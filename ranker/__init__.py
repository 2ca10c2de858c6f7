"""The serving model, retrieval, threads and hot swap."""
