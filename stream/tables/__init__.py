"""Hash tables of 64-bit keys in arrays, what is evicted from them, and the hash of ids."""
