#!/bin/sh
# The images' entry point: links numba's cache to the kernels that the image has, claims a worker's name in the volume,
# then becomes `thalweg`.
set -eu
kernels=${KERNELS:-/opt/kernels}

# numba refuses a cache that it can't write to, and an image is read-only: hence links, in a folder that is writable.
if [ "${NUMBA_CPU_NAME:-}" = x86-64-v3 ] && ! grep -qw avx2 /proc/cpuinfo; then
    echo "thalweg: this processor has no AVX2, for which the image's kernels are compiled: it compiles its own, for minutes" >&2
    unset NUMBA_CPU_NAME NUMBA_CPU_FEATURES
elif [ -d "$kernels" ] && [ ! -e "$NUMBA_CACHE_DIR" ]; then
    cp -rs "$kernels" "$NUMBA_CACHE_DIR"
fi

# Containers of one service share its volume. Each claims a number there, for as long as its process lives (the lock is
# inherited), and takes the name in it: the host name of the first container that had it. So a name is unique, and a
# container that replaces another has its name and its files.
if [ -z "${THALWEG_WORKER:-}" ]; then
    mkdir -p "$THALWEG_LOCAL/workers"
    number=0
    while exec 9>>"$THALWEG_LOCAL/workers/$number" && ! flock -n 9; do
        number=$((number + 1))
    done
    [ -s "$THALWEG_LOCAL/workers/$number" ] || hostname >&9
    THALWEG_WORKER=$(cat "$THALWEG_LOCAL/workers/$number")
    export THALWEG_WORKER
fi
exec thalweg "$@"
