"""Small versions of a model, for tests of snapshots and of those who read them."""

from collections.abc import Callable
from typing import Final

import numpy as np
import redis

from stream.snapshots.manifest import Golden, Manifest, PartVersion
from stream.snapshots.payload import Digests, digests_of, pack, split
from stream.snapshots.store import SnapshotStore, fetch

AHEAD: Final = 2**46  # a token that no store's clock hands out before 4199


def raw_of(value: int) -> bytes:
    """A content that says `value`."""
    return pack({"value": np.array([value], np.int64)})


def put(store: SnapshotStore, value: int) -> Digests:
    """Store a content that says `value`, and return its name."""
    store.put_blobs(split(raw_of(value)))
    return digests_of(raw_of(value))


def version_of(version: int, parent: int, token: int, *contents: Digests, model: str = "m") -> Manifest:
    """A manifest of one part: its base, then deltas."""
    return Manifest(
        model=model,
        version=version,
        parent=parent,
        fingerprint="f1",
        spec=b"spec",
        token=token,
        offset={0: 10 * version},
        examples=8 * version,
        watermark_ms=1_000,
        learned_ms=2_000,
        created_ms=3_000,
        metrics={"auc": 0.75},
        parts={"wide": PartVersion(base=contents[0], deltas=list(contents[1:]))},
        ingest_ms=[1_999],
        golden=[Golden(b"page", [0.5])],
    )


def publish(store: SnapshotStore, version: int, parent: int, token: int) -> None:
    """Put and publish a version whose only content says its number."""
    store.publish(version_of(version, parent, token, put(store, version)))


def values(store: SnapshotStore, version: int) -> list[int]:
    """What the contents of a version say, in order: the version is read whole."""
    contents = store.manifest(version).parts["wide"].payloads()
    return [int(fetch(store, digests)["value"][0]) for digests in contents]


def redis_copy(client: redis.Redis, pattern: str) -> Callable[[], None]:
    """Copy these keys; what this returns makes them as they are now, like a failover to a replica that fell behind."""
    keys = list(client.scan_iter(pattern))
    with client.pipeline(transaction=True) as pipeline:
        for key in keys:
            pipeline.dump(key)
        dumped = dict(zip(keys, pipeline.execute(), strict=True))

    def fail_over() -> None:
        there = list(client.scan_iter(pattern))
        with client.pipeline(transaction=True) as pipeline:
            for key in there:
                pipeline.delete(key)
            for key, raw in dumped.items():
                pipeline.restore(key, 0, raw)
            pipeline.execute()

    return fail_over
