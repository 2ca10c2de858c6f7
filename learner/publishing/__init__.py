"""From weights to versions: the gate, the chain of deltas, the upload."""
