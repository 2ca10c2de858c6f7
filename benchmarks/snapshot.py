"""Bytes and time to publish and to load, base and delta, by model size, through a real Redis of its own.

A delta is of 10,000 wide keys, as many statistics, 5,000 embedding rows and the dense layers of specs/movielens.toml.
Publishing is packing, hashing, putting and moving the head; loading is reading, verifying and assembling,
with the validation on golden pages, by a ranker that is warmed up as a service is. Manifests have all fields that a
learner's have. There is no peer: no other system publishes versions that are verified byte by byte.
"""

import math
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from msgspec import structs
from rich.table import Table

from benchmarks.serving import Publisher, World
from ranker.ranking.jit_warmup import compile_kernels
from ranker.ranking.score import Scorer
from ranker.versions.version_loader import VersionLoader
from stream.runtime.settings import Settings
from stream.snapshots.manifest import DELTAS_MAX, INGESTS_MAX, Manifest, PartVersion, encode_manifest, named_blobs
from stream.snapshots.payload import Payload, digests_of, pack, split
from stream.snapshots.redis_store import RedisStore
from stream.spec.spec_file import load_spec
from thalweg.stack.server import LOOPBACK, end_process, free_port, redis_answers, spawn

KEYS, ROWS = 10_000, 5_000  # of a delta
DELTAS = 20
RANKERS = (1, 10, 100)
REBASE_SHARE = 0.25  # a merged delta's of its base, as a learner has it
TODAY_MS = 1_800_000_000_000
MIB = 1024 * 1024


@contextmanager
def own_redis(folder: Path) -> Iterator[Settings]:
    """A Redis for this run, ended with it."""
    port = free_port()
    command = ["redis-server", "--bind", LOOPBACK, "--port", str(port), "--save", ""]
    server = spawn("Redis", command, port, folder / "redis.log", folder / "data")
    try:
        while not redis_answers(LOOPBACK, port):
            time.sleep(0.01)
        yield Settings(redis=f"redis://{LOOPBACK}:{port}/0")
    finally:
        end_process(server, signal.SIGTERM, 10)


def published(
    publisher: Publisher, store: RedisStore, contents: dict[str, Payload], *, base: bool
) -> tuple[int, float]:
    """Put these contents and move the head. Returns bytes and seconds.

    The time excludes what a learner's own thread does: it builds the version and scores its golden pages.
    """
    publisher.golden.note(contents)
    manifest = publisher.cut()
    begun, size = time.perf_counter(), 0
    for part, content in contents.items():
        raw = pack(content)
        size += len(raw)
        store.put_blobs(split(raw))
        current = publisher.parts.get(part)
        publisher.parts[part] = (
            PartVersion(digests_of(raw))
            if base or current is None
            else PartVersion(current.base, current.merged, [*current.deltas, digests_of(raw)])
        )
    store.publish(structs.replace(manifest, parts=dict(publisher.parts)))
    return size, time.perf_counter() - begun


def fullest(manifest: Manifest) -> Manifest:
    """The largest manifest that a version of this model can have: all deltas, all installs, times of today.

    A merged delta has its maximum size before a learner builds a new base.
    """
    merged = {name: part.base[: math.ceil(REBASE_SHARE * len(part.base))] for name, part in manifest.parts.items()}
    return structs.replace(
        manifest,
        parts={
            name: PartVersion(part.base, merged[name], [part.base[:1]] * DELTAS_MAX, manifest.version)
            for name, part in manifest.parts.items()
        },
        offset=dict.fromkeys(manifest.offset, 10**12),
        ingest_ms=[TODAY_MS] * INGESTS_MAX,
        watermark_ms=TODAY_MS,
        learned_ms=TODAY_MS,
        created_ms=TODAY_MS,
    )


def measure(settings: Settings, keys: int) -> dict[str, float]:
    """One model size."""
    spec = load_spec(Path("specs/movielens.toml"))
    with closing(RedisStore(settings, f"m{keys}")) as store:
        world = World(spec, 2_000, 1_000)
        publisher = Publisher(world, store, wide_keys=keys, rows=keys // 10)
        whole = publisher.contents(publisher.wide, publisher.statistics.rows(), publisher.ids, base=True)
        base_bytes, base_s = published(publisher, store, whole, base=True)
        loader = VersionLoader(store, store.model)
        begun = time.perf_counter()
        version = loader.load(publisher.number)
        load_base_s = time.perf_counter() - begun
        publish_s, load_s, delta_bytes, deep_bytes = [], [], 0, 0
        random = publisher.random
        for _ in range(DELTAS):
            rows = publisher.statistics.rows()
            changed = publisher.contents(
                random.choice(publisher.wide, KEYS, replace=False),
                rows[random.permutation(len(rows))[:KEYS]],
                random.choice(publisher.ids, min(ROWS, len(publisher.ids) // 2), replace=False),
                base=False,
            )
            deep_bytes = len(pack(changed["deep"]))
            delta_bytes, seconds = published(publisher, store, changed, base=False)
            publish_s.append(seconds)
            begun = time.perf_counter()
            version = loader.load(publisher.number, version)
            load_s.append(time.perf_counter() - begun)
        manifest = store.manifest(publisher.number)
        largest = len(encode_manifest(fullest(manifest)))
        begun, read = time.perf_counter(), 0
        for digest in set(named_blobs(manifest)):
            read += len(store.get_blob(digest))
        return {
            "base_bytes": base_bytes, "base_publish_s": base_s, "load_base_s": load_base_s,
            "delta_bytes": delta_bytes, "deep_delta_bytes": deep_bytes,
            "publish_ms": 1_000 * statistics.median(publish_s), "load_delta_ms": 1_000 * statistics.median(load_s),
            "manifest_bytes_max": largest,
            "read_bytes_s": read / (time.perf_counter() - begun),
        }  # fmt: skip


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures: those of the largest model."""
    table = Table(
        title="snapshots through Redis, specs/movielens.toml; a delta of 10,000 keys and 5,000 rows (median of 20)"
    )
    heads = ["wide keys", "base, MiB", "publish base, s", "load base, s", "delta, MiB", "publish delta, ms"]
    for column in [*heads, "load delta, ms", "largest manifest, KiB"]:
        table.add_column(column, justify="right")
    figures: dict[str, float] = {}
    scorer = Scorer(1)
    compile_kernels(scorer)
    scorer.close()
    with tempfile.TemporaryDirectory(prefix="thalweg-snapshot-") as folder, own_redis(Path(folder)) as settings:
        for keys in (100_000,) if quick else (100_000, 1_000_000, 5_000_000):
            figures = measure(settings, keys)
            table.add_row(
                f"{keys:,}", f"{figures['base_bytes'] / MIB:.1f}", f"{figures['base_publish_s']:.2f}",
                f"{figures['load_base_s']:.2f}", f"{figures['delta_bytes'] / MIB:.2f}",
                f"{figures['publish_ms']:.1f}", f"{figures['load_delta_ms']:.1f}",
                f"{figures['manifest_bytes_max'] / 1024:.1f}",
            )  # fmt: skip
    rest = figures["delta_bytes"] - figures["deep_delta_bytes"]
    each = 4 * rest + figures["deep_delta_bytes"]  # every 250 ms; the deep part every second
    feeds = ", ".join(f"{n}: {n * each / MIB:,.0f} MiB/s" for n in RANKERS)
    table.caption = (
        f"such a delta every 250 ms, its deep part every second: {each / MIB:.1f} MiB/s a ranker ({feeds}); "
        f"one client reads {figures['read_bytes_s'] / MIB:,.0f} MiB/s from Redis"
    )
    figures |= {f"bytes_s_{n}": n * each for n in RANKERS}
    return table, figures
