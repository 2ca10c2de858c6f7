# One target per room. They share the code (it is small) and differ in what is installed beside it:
#   docker build --target ranker -t thalweg-ranker .
# A room that isn't given a spec says so and ends: docker run thalweg-ranker run ranker --spec specs/movielens.toml
# The ranker has neither torch nor a JVM. No image has a JVM: Kafka is a service of its own.
FROM python:3.12-slim AS python
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    # Kernels that a container has compiled are kept in its volume.
    NUMBA_CACHE_DIR=/data/kernels \
    THALWEG_LOCAL=/data THALWEG_DATA=/data/sets
WORKDIR /thalweg
RUN useradd --uid 10001 thalweg && mkdir /data && chown thalweg /data
COPY constraints.txt pyproject.toml ./
RUN pip install --no-cache-dir -c constraints.txt uv
VOLUME /data
ENTRYPOINT ["thalweg"]

# Faust has no wheel for Linux on arm64. Built without a compiler it has none of its Cython, and says nothing.
FROM python AS faust
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
RUN pip wheel --no-cache-dir --no-deps -c constraints.txt -w /wheels faust-streaming

# What each room needs, before the code is copied: a change in the code leaves these layers as they are.
FROM python AS joiner-packages
RUN --mount=from=faust,source=/wheels,target=/wheels \
    uv pip install --system --no-cache -c constraints.txt -r pyproject.toml --extra joiner --find-links /wheels \
    && python -c "import faust._cython.streams"

FROM python AS learner-packages
# torch without CUDA by default; `--build-arg UV_TORCH_BACKEND=auto` for a machine with a GPU.
ARG UV_TORCH_BACKEND=cpu
RUN uv pip install --system --no-cache -c constraints.txt -r pyproject.toml --extra learner

FROM python AS ranker-packages
RUN uv pip install --system --no-cache -c constraints.txt -r pyproject.toml --extra ranker

FROM python AS tools-packages
RUN uv pip install --system --no-cache -c constraints.txt -r pyproject.toml --extra tools

FROM joiner-packages AS joiner
COPY . .
RUN uv pip install --system --no-cache --no-deps -e .
USER thalweg
CMD ["run", "joiner"]

FROM learner-packages AS learner
COPY . .
RUN uv pip install --system --no-cache --no-deps -e .
USER thalweg
CMD ["run", "learner"]

FROM ranker-packages AS ranker
COPY . .
RUN uv pip install --system --no-cache --no-deps -e .
USER thalweg
CMD ["run", "ranker"]

# Producers and the command line: apply-topics, replay, rank, send-install, doctor.
FROM tools-packages AS tools
COPY . .
RUN uv pip install --system --no-cache --no-deps -e .
USER thalweg
CMD ["--help"]
