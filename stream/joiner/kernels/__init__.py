"""What is compiled: the join's state as arrays, and the kernels that work on them. Loaded late, since numba is slow."""
