"""What is kept of items for retrieval: their neighbours and vectors, moved by each install."""
