"""Ten thousand snapshots that somebody or something has changed: none is served, none breaks the ranker."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.version_watcher import VersionWatcher
from ranker.versions.version_loader import VersionLoader
from stream.events.types import TIME_MS_MAX
from stream.snapshots.manifest import (
    MANIFEST_BYTES_MAX,
    Golden,
    Head,
    PartVersion,
    decode_manifest,
    encode_manifest,
    named_blobs,
)
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.payload import BLOB_BYTES_MAX, Array, Digests, digest_of, digests_of, pack, split
from stream.snapshots.store import fetch
from stream.spec.spec_file import encode_spec
from tests.support.random_models import ToyModel, some_spec

MUTATIONS = 10_000
LIVE = 2
MARKER = np.float32(1.2345678)


class World:
    """A sound version 1 and 2 in a store, a ranker that serves 2, and room for a garbled 3."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(11)
        # Of seed 6 golden pages read rows that only the base has: no others are seen to be missing.
        self.model = ToyModel(some_spec(np.random.default_rng(5), ["wide", "deep"]), 6)
        self.store = MemoryStore("m")
        self.model.publish(self.store)
        self.model.learn()
        self.model.publish(self.store)
        self.loader = VersionLoader(self.store, "m")
        self.watcher = VersionWatcher(self.store, "m", EntityCache(), lambda: 5_000_000, loader=self.loader)
        assert self.watcher.step()
        self.model.learn()
        self.sound = self.model.publish(self.store)
        self.token = self.sound.token
        self.blobs, self.manifests = dict(self.store._blobs), dict(self.store._manifests)

    def put(self, content: dict[str, Array]) -> Digests:
        """A content under its own right name."""
        return self.put_raw(pack(content))

    def put_raw(self, raw: bytes) -> Digests:
        """Bytes under their own right name."""
        self.store._blobs.update(split(raw))
        return digests_of(raw)

    def changed(self, **changes: Any) -> bytes:
        """The sound manifest with other fields, signed again."""
        return encode_manifest(msgspec.structs.replace(self.sound, **changes))

    def with_content(self, part: str, index: int, digests: Digests) -> bytes:
        """The sound manifest with another base (index 0) or last delta (−1)."""
        part_version = self.sound.parts[part]
        contents = [part_version.base, *part_version.deltas]
        contents[index] = digests
        return self.changed(parts={**self.sound.parts, part: PartVersion(contents[0], [], contents[1:])})

    def some_content(self) -> tuple[str, int, dict[str, Array], list[str]]:
        """A part, the index of one of its contents, that content, and which of its arrays are read."""
        part, index = str(self.rng.choice(["wide", "statistics", "deep"])), int(self.rng.choice([0, -1]))
        digests = self.sound.parts[part].payloads()[index]
        content = {name: np.array(array) for name, array in fetch(self.store, digests).items()}
        names = [n for n in content if n != "dead" and (part != "deep" or index == -1 or n in ("keys", "vectors"))]
        return part, index, content, names

    def some_blob(self) -> str:
        """The name of a blob that only the newest version has."""
        old = set(named_blobs(decode_manifest(self.manifests[LIVE])))
        return str(self.rng.choice(sorted(set(named_blobs(self.sound)) - old)))


def flipped(world: World) -> bytes:
    """One bit of a blob."""
    digest = world.some_blob()
    raw = bytearray(world.blobs[digest])
    raw[int(world.rng.integers(len(raw)))] ^= 1 << int(world.rng.integers(8))
    world.store._blobs[digest] = bytes(raw)
    return world.changed()


def truncated(world: World) -> bytes:
    """A blob that lost its end, or got a longer one."""
    digest = world.some_blob()
    raw = world.blobs[digest]
    world.store._blobs[digest] = raw[: int(world.rng.integers(len(raw)))] if world.rng.random() < 0.8 else raw + b"\0"
    return world.changed()


def missing(world: World) -> bytes:
    """A blob that isn't there."""
    del world.store._blobs[world.some_blob()]
    return world.changed()


def swapped(world: World) -> bytes:
    """A part that names the content of another."""
    a, b = world.rng.choice(["wide", "statistics", "deep"], 2, replace=False)
    return world.with_content(str(a), int(world.rng.choice([0, -1])), world.sound.parts[str(b)].base)


def not_finite(world: World) -> bytes:
    """NaN or infinity among the numbers, under a right digest."""
    while True:
        part, index, content, names = world.some_content()
        names = [name for name in names if content[name].dtype.kind == "f" and content[name].size]
        if names:
            break
    name = str(world.rng.choice(names))
    content[name].reshape(-1)[int(world.rng.integers(content[name].size))] = MARKER
    raw = bytearray(pack(content))
    at = bytes(raw).find(MARKER.tobytes())
    raw[at : at + 4] = np.float32(world.rng.choice([np.nan, np.inf, -np.inf])).tobytes()
    return world.with_content(part, index, world.put_raw(bytes(raw)))


def wrong_shape(world: World) -> bytes:
    """An array of another length or shape than its fellows."""
    while True:
        part, index, content, names = world.some_content()
        names = [name for name in names if content[name].size]
        if names:
            break
    name = str(world.rng.choice(names))
    array = content[name]
    content[name] = array.reshape(-1)[:, None] if array.ndim == 1 and world.rng.random() < 0.3 else array[..., :-1]
    return world.with_content(part, index, world.put(content))


def lacking(world: World) -> bytes:
    """A content without one of its arrays."""
    part, index, content, names = world.some_content()
    content.pop(str(world.rng.choice(names)))
    return world.with_content(part, index, world.put(content))


def lying(world: World) -> bytes:
    """An array whose head promises another shape than its bytes have."""
    part, index, content, _ = world.some_content()
    raw = bytearray(pack(content))
    at = raw.find(b"\x92\xa3<")  # an array's head: its dtype, then its shape
    raw[at + 6] ^= 1 << int(world.rng.integers(6))
    return world.with_content(part, index, world.put_raw(bytes(raw)))


def other_spec(world: World) -> bytes:
    """A manifest with a spec that isn't its own, or that nobody can read."""
    other = some_spec(np.random.default_rng(int(world.rng.integers(1_000, 9_000))), ["wide", "deep"])
    if world.rng.random() < 0.3:
        return world.changed(spec=b"{" + world.rng.bytes(30))
    return world.changed(
        spec=encode_spec(other), **({"fingerprint": other.fingerprint()} if world.rng.random() < 0.5 else {})
    )


def wrong_scores(world: World) -> bytes:
    """Golden rows that the version doesn't score, or that are no pages."""
    golden = world.sound.golden[0]
    if world.rng.random() < 0.3:
        return world.changed(golden=[Golden(world.rng.bytes(int(world.rng.integers(200))), golden.scores)])
    scores = [float(min(1.0, score + world.rng.uniform(0.001, 0.5))) for score in golden.scores]
    return world.changed(golden=[Golden(golden.features, [s - 0.01 if s == 1.0 else s for s in scores])])


def garbled_manifest(world: World) -> bytes:
    """One bit of the manifest, or its end cut off."""
    raw = bytearray(world.changed())
    if world.rng.random() < 0.3:
        return bytes(raw[: int(world.rng.integers(len(raw)))])
    raw[int(world.rng.integers(len(raw)))] ^= 1 << int(world.rng.integers(8))
    return bytes(raw)


def other_manifest(world: World) -> bytes:
    """A manifest of another version, or of another model."""
    if world.rng.random() < 0.5:
        return world.changed(version=int(world.rng.integers(4, 99)))
    return world.changed(model="another")


def older(world: World) -> bytes:
    """An older version as the head."""
    world.store._head = Head(1, world.token)
    return world.changed()


def partless(world: World) -> bytes:
    """A manifest without one of its parts."""
    parts = dict(world.sound.parts)
    parts.pop(str(world.rng.choice(sorted(parts))))
    return world.changed(parts=parts)


def garbled_spec(world: World) -> bytes:
    """A spec that isn't UTF-8, under a right digest."""
    spec = bytearray(world.sound.spec)
    spec[int(world.rng.integers(len(spec)))] = 0xFF
    return world.changed(spec=bytes(spec))


def nested(world: World) -> bytes:
    """A manifest with a field that only a later release knows, lists in lists in lists, under a right digest."""
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(world.sound))
    depth = int(world.rng.integers(2_000, 200_000))
    later = msgspec.Raw(b"\x91" * depth + b"\xc0")
    body = msgspec.msgpack.encode(
        {**fields, "later": later} if world.rng.random() < 0.5 else {"later": later, **fields}
    )
    return signed(body)


def signed(body: bytes) -> bytes:
    """A manifest of any body, under its right digest."""
    return msgspec.msgpack.encode((bytes.fromhex(digest_of(body)), body))


def absurd_time(world: World) -> bytes:
    """A time that no clock can have."""
    field = str(world.rng.choice(["watermark_ms", "learned_ms", "created_ms", "ingest_ms"]))
    time_ms = int(world.rng.choice([-(2**62), -1, TIME_MS_MAX, 2**62]))
    body = msgspec.msgpack.decode(msgspec.msgpack.encode(world.sound))
    return signed(msgspec.msgpack.encode({**body, field: [5, time_ms] if field == "ingest_ms" else time_ms}))


def absurd_statistic(world: World) -> bytes:
    """A count or a time of a statistic that no labels could have made. Among the sums stand ids of items, too."""
    index = int(world.rng.choice([0, -1]))
    rows = np.array(fetch(world.store, world.sound.parts["statistics"].payloads()[index])["rows"])
    wrong = {1: [1e19, 1e308, -1e308], 3: [-2.0, 4.2e12, 1e308]}
    column = int(world.rng.choice([1, 3]))
    rows.view(np.float64)[int(world.rng.integers(len(rows))), column] = float(world.rng.choice(wrong[column]))
    return world.with_content("statistics", index, world.put({"rows": rows}))


def untried(world: World) -> bytes:
    """A version that has learned, without golden pages."""
    return world.changed(golden=[])


def forgetful(world: World) -> bytes:
    """A version that has learned, without a single statistic, or with those of its base all gone."""
    empty = world.put({"rows": np.zeros((0, 4), np.uint64)})
    if world.rng.random() < 0.5:
        return world.with_content("statistics", 0, empty)
    return world.changed(parts={**world.sound.parts, "statistics": PartVersion(empty)})


def twice(world: World) -> bytes:
    """A key that stands twice in a content."""
    while True:
        part, index, content, _ = world.some_content()
        name = "rows" if part == "statistics" else "keys"
        if len(content[name]) > 1:
            break
    first, second = world.rng.choice(len(content[name]), 2, replace=False)
    content[name][second] = content[name][first]
    return world.with_content(part, index, world.put(content))


MUTATORS: list[Callable[[World], bytes]] = [
    flipped, truncated, missing, swapped, not_finite, wrong_shape, lacking, lying, other_spec, wrong_scores,
    garbled_manifest, other_manifest, older, partless, garbled_spec, nested,
    absurd_time, absurd_statistic, untried, forgetful, twice,
]  # fmt: skip


def test_no_mutated_snapshot_is_served() -> None:
    """Bit flips, truncations, NaN, wrong digests, other specs, older versions, lies: rejected, each with a reason."""
    world = World()
    for i in range(MUTATIONS):
        mutate = MUTATORS[i % len(MUTATORS)]
        world.store._blobs, world.store._manifests = dict(world.blobs), dict(world.manifests)
        world.store._head = Head(3, world.token)
        world.watcher.rejection, world.watcher._rejected_head, world.watcher._older = "", None, None
        world.loader._deltas.clear()
        world.store._manifests[3] = mutate(world)
        assert not world.watcher.step(), f"{mutate.__name__} in round {i} was served"
        assert world.watcher.served is not None
        assert world.watcher.served.version.number == LIVE
        assert world.watcher.rejection, f"{mutate.__name__} in round {i} was rejected without a word"
        assert "breaks the ranker" not in world.watcher.rejection, f"{mutate.__name__} in round {i} wasn't foreseen"
    world.store._blobs, world.store._manifests = dict(world.blobs), dict(world.manifests)
    world.store._head = Head(3, world.token)
    world.watcher._rejected_head = None
    assert world.watcher.step(), "the sound one is served after all of them"


@pytest.mark.parametrize("what", ["blob", "manifest", "content"])
def test_oversize_is_refused(what: str) -> None:
    """What is over its limit isn't read any further."""
    world = World()
    world.store._head = Head(3, world.token)
    if what == "manifest":
        world.store._manifests[3] = bytes(MANIFEST_BYTES_MAX + 1)
    elif what == "blob":
        large = bytes(BLOB_BYTES_MAX + 1)
        world.store._blobs[digest_of(large)] = large
        world.store._manifests[3] = world.with_content("wide", 0, [digest_of(large)])
    else:
        large = bytes(BLOB_BYTES_MAX)
        world.store._blobs[digest_of(large)] = large
        world.store._manifests[3] = world.with_content("wide", 0, [digest_of(large)] * 20)
    assert not world.watcher.step()
    assert world.watcher.rejection
