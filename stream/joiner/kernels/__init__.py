"""The compiled join: its state as arrays, and the kernels that work on them. Imported late, since numba is slow."""
