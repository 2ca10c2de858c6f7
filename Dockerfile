# syntax=docker/dockerfile:1.7.0
# One target per room. They share the code (it is small) and differ in what is installed beside it:
#   docker build --target ranker -t thalweg-ranker .
# A room that isn't given a spec says so and ends; mount a folder with yours:
#   docker run --read-only --tmpfs /tmp -v "$PWD/specs:/specs:ro" thalweg-ranker run ranker --spec /specs/movielens.toml
# The ranker has neither torch nor a JVM. No image has a JVM: Kafka is a service of its own. docs/containers.md.
FROM python:3.11.14-slim-bookworm AS python
ENV PYTHONUNBUFFERED=1 \
    # The root is read-only where it runs, so bytecode is compiled here.
    PYTHONDONTWRITEBYTECODE=1 UV_COMPILE_BYTECODE=1 \
    # Linked to /opt/kernels by the entry point.
    NUMBA_CACHE_DIR=/tmp/kernels \
    THALWEG_LOCAL=/data THALWEG_DATA=/data/sets
WORKDIR /thalweg
RUN useradd --uid 10001 thalweg && mkdir /data && chown thalweg /data
COPY constraints.txt pyproject.toml ./
RUN pip install --no-cache-dir -c constraints.txt uv
VOLUME /data
ENTRYPOINT ["/thalweg/stack/container.sh"]

# The processor for which kernels are compiled, not that of the machine that builds: AVX2 and FMA, any since about 2015.
FROM python AS target-amd64
ENV NUMBA_CPU_NAME=x86-64-v3 NUMBA_CPU_FEATURES=""
# arm64: ARMv8.0 with NEON, which all have. Nobody has tried it.
FROM python AS target-arm64
ENV NUMBA_CPU_NAME=generic NUMBA_CPU_FEATURES=""
FROM target-${TARGETARCH} AS base

# Faust has no wheel for Linux on arm64. Built without a compiler it has none of its Cython, and says nothing.
FROM python AS faust
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
RUN pip wheel --no-cache-dir --no-deps -c constraints.txt -w /wheels faust-streaming

# What each room needs, before the code is copied: a change in the code leaves these layers as they are.
FROM base AS joiner-packages
RUN --mount=from=faust,source=/wheels,target=/wheels \
    uv pip install --system --no-cache -c constraints.txt -r pyproject.toml --extra joiner --find-links /wheels \
    && python -c "import faust._cython.streams"

FROM base AS learner-packages
# torch without CUDA by default; `--build-arg UV_TORCH_BACKEND=auto` for a machine with a GPU.
ARG UV_TORCH_BACKEND=cpu
RUN uv pip install --system --no-cache -c constraints.txt -r pyproject.toml --extra learner --extra backup

FROM base AS ranker-packages
RUN uv pip install --system --no-cache -c constraints.txt -r pyproject.toml --extra ranker

FROM base AS tools-packages
RUN uv pip install --system --no-cache -c constraints.txt -r pyproject.toml --extra tools --extra console

FROM learner-packages AS offline-packages
ARG UV_TORCH_BACKEND=cpu
RUN uv pip install --system --no-cache -c constraints.txt -r pyproject.toml \
    --extra learner --extra ranker --extra tools --extra peers

FROM joiner-packages AS joiner
COPY . .
RUN uv pip install --system --no-cache --no-deps -e . && python -m compileall -q . \
    && NUMBA_CACHE_DIR=/opt/kernels python -m thalweg.room_kernels joiner
USER thalweg
CMD ["run", "joiner"]

FROM learner-packages AS learner
COPY . .
RUN uv pip install --system --no-cache --no-deps -e . && python -m compileall -q . \
    && NUMBA_CACHE_DIR=/opt/kernels python -m thalweg.room_kernels learner
USER thalweg
CMD ["run", "learner"]

FROM ranker-packages AS ranker
COPY . .
RUN uv pip install --system --no-cache --no-deps -e . && python -m compileall -q . \
    && NUMBA_CACHE_DIR=/opt/kernels python -m thalweg.room_kernels ranker
USER thalweg
CMD ["run", "ranker"]

# Producers and the command line: apply-topics, replay, rank, send-install, doctor.
FROM tools-packages AS tools
COPY . .
RUN uv pip install --system --no-cache --no-deps -e . && python -m compileall -q . \
    && NUMBA_CACHE_DIR=/opt/kernels python -m thalweg.room_kernels tools
USER thalweg
CMD ["--help"]

# Evaluation without a log: backtest and its peers, experiment. It is the largest, with torch and all that compares.
FROM offline-packages AS offline
COPY . .
RUN uv pip install --system --no-cache --no-deps -e . && python -m compileall -q . \
    && NUMBA_CACHE_DIR=/opt/kernels python -m thalweg.kernels
USER thalweg
CMD ["backtest", "--help"]
