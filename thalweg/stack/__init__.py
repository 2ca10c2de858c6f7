"""The local stack: broker and Redis as processes, what runs, what is missing."""
