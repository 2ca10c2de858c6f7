"""The deep part: embeddings, tower, the joint step."""
