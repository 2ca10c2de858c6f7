"""From weights to versions: the gate, the delta chains, the upload."""
