"""Versions after a merge: whoever has what was merged goes on from there, and has what a fresh loader reads."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st
from msgspec import structs

from learner.publishing.delta_chain import DeltaChain
from learner.publishing.version_parts import PartSource
from ranker.kernels.layered_table import LayeredTable, TableBuilder
from ranker.versions.model import Version, score_features
from ranker.versions.version_loader import VersionLoader, load_version
from stream.runtime.errors import BadSnapshot
from stream.snapshots.manifest import Manifest
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.payload import Array
from stream.snapshots.store import fetch
from stream.tables.delta_table import MISSING, TOMBSTONE, lookup
from stream.tables.dtypes import U64
from stream.tables.hash_kernels import find
from tests.support.random_models import ToyModel, some_spec

DELTAS_MAX, DELTAS_RETAINED = 5, 2
NO_KEYS: dict[str, set[int]] = {"wide": set(), "deep": set(), "statistics": set()}


class OwnedStore(MemoryStore):
    """A store of one learner: the token stays until it's restarted. It remembers which blobs were asked for."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.token = 1
        self.asked: set[str] = set()
        self.asked_aside: set[str] = set()  # by another thread than the test's
        self.lost: set[str] = set()

    def take_token(self, at_least: int = 0) -> int:
        """See SnapshotStore."""
        return self.token

    def get_blob(self, digest: str) -> bytes:
        """See SnapshotStore."""
        mine = threading.current_thread() is threading.main_thread()
        (self.asked if mine else self.asked_aside).add(digest)
        if digest in self.lost:
            raise BadSnapshot(f"blob {digest} is gone")
        return super().get_blob(digest)


class ToyPart:
    """A part of a toy model, as a learner's chain sees it. Some statistics' rows go, and may come back."""

    def __init__(self, model: ToyModel, name: str) -> None:
        self.model, self.name = model, name
        self.gone: set[int] = set()

    def take_changed(self) -> U64:
        """See PartSource."""
        if self.name == "statistics":
            fresh = self.model.taken()
            self.gone -= set(fresh.tolist())
            self.gone |= set(fresh[self.model.rng.random(len(fresh)) < 0.2].tolist())
            return fresh
        fresh_keys, self.model.fresh[self.name] = self.model.fresh[self.name], set()
        return np.array(sorted(fresh_keys), np.uint64)

    def payload(self, keys: U64 | None) -> dict[str, Array]:
        """See PartSource."""
        asked = None if keys is None else {**NO_KEYS, self.name: set(keys.tolist())}
        content = dict(self.model.contents(asked)[self.name])
        if self.name == "statistics":
            dead = np.isin(content["rows"][:, 0], np.array(sorted(self.gone), np.uint64))
            content["dead"] = content["rows"][dead, 0].copy() if asked else np.zeros(0, np.uint64)
            content["rows"] = content["rows"][~dead]
        return content

    def source(self) -> PartSource:
        """As a chain takes it."""
        return PartSource(self.take_changed, self.payload, self.__len__)

    def __len__(self) -> int:
        rows = {"wide": self.model.wide, "deep": self.model.vectors, "statistics": self.model.statistics.rows()}
        return len(rows[self.name])  # type: ignore[arg-type]  # each has a length


class Learner:
    """Cuts versions of a toy model with a learner's own chains, of few deltas."""

    def __init__(self, seed: int, rebase_share: float = 100.0) -> None:
        self.model = ToyModel(some_spec(np.random.default_rng(seed), ["wide", "deep"]), seed)
        self.store = OwnedStore("m")
        self.rebase_share = rebase_share
        self.begin()

    def begin(self) -> None:
        """From a full base on."""
        self.chains = {
            name: DeltaChain(ToyPart(self.model, name).source(), DELTAS_MAX, DELTAS_RETAINED, self.rebase_share)
            for name in NO_KEYS
        }

    def restart(self) -> None:
        """Another learner takes over."""
        self.store.token += 1
        self.begin()

    def publish(self, *, deep: bool = True) -> Manifest:
        """Learn a bit, and publish it."""
        self.model.learn(1)
        for name, chain in self.chains.items():
            if name != "deep" or deep or chain.layers is None:
                for content in chain.extend(self.model.number + 1):
                    self.store.put_blobs(content.pack())
        parts = {name: chain.layers.part_version() for name, chain in self.chains.items() if chain.layers}
        return self.model.publish_parts(self.store, parts, golden=[], examples=0)


def values(layers: LayeredTable) -> dict[int, bytes]:
    """What a reader finds under each key, by a look into overlay and base."""
    rows, found = layers.view, {}
    for key in {*rows.base[:, 0].tolist(), *rows.heads[:, 0].tolist()} - {0}:
        entry, row = lookup(rows.heads, rows.entries, rows.limit, np.uint64(key)), find(rows.base, np.uint64(key))
        if entry >= 0:
            found[key] = (layers.delta.vectors[entry] if layers.delta.dim else rows.entries[entry, 1:]).tobytes()
        elif entry == MISSING and row >= 0:
            found[key] = (layers.vectors[rows.base[row, 1]] if layers.delta.dim else rows.base[row, 1:]).tobytes()
        else:
            assert entry in (TOMBSTONE, MISSING)
    return found


def assert_same(version: Version, fresh: Version, page: bytes) -> None:
    """Both have the same names, tables and unseen vector, and score alike, bit for bit."""
    zero = bytes(8)
    wide, whole = ({k: v for k, v in values(one.wide).items() if v != zero} for one in (version, fresh))
    assert wide == whole
    assert values(version.statistics) == values(fresh.statistics)
    assert version.tower is not None
    assert fresh.tower is not None
    assert values(version.tower.embeddings) == values(fresh.tower.embeddings)
    assert version.tower.embeddings.unseen.tobytes() == fresh.tower.embeddings.unseen.tobytes()
    names = [
        (v.wide.payload_ids, v.statistics.payload_ids, v.tower and v.tower.embeddings.payload_ids)
        for v in (version, fresh)
    ]
    assert names[0] == names[1]
    assert score_features(version, page, 6).tolist() == score_features(fresh, page, 6).tolist()


STEP = st.sampled_from(["publish"] * 12 + ["without deep"] * 3 + ["follow"] * 8 + ["back", "restart", "forget"])


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 100.0]), st.lists(STEP, min_size=20, max_size=40), st.data())
@how(max_examples=20, deadline=None)
def test_a_follower_has_what_a_fresh_loader_reads(
    seed: int, share: float, steps: list[str], data: st.DataObject
) -> None:
    """Over merges, folds, versions not looked at, older ones pinned and let go, learners and rankers that restart."""
    learner = Learner(seed, share)
    learner.publish()
    loader = VersionLoader(learner.store, "m")
    live: Version | None = None
    for step in [*steps, "follow"]:
        match step:
            case "publish" | "without deep":
                learner.publish(deep=step == "publish")
                continue
            case "restart":
                learner.restart()
                learner.publish()
                continue
            case "forget":
                learner.store.retain(3)
                continue
            case "back":
                number = data.draw(st.sampled_from(learner.store.versions()))
            case _:
                number = learner.model.number
        live = loader.load(number, live)
        page = learner.model.page(6).tobytes()
        assert_same(live, load_version(learner.store, "m", number), page)


def merges(learner: Learner, count: int) -> Iterator[Manifest]:
    """Versions, until parts were merged so many times; the manifest of each."""
    found: set[object] = set()
    while len(found) < count:
        manifest = learner.publish()
        found.add(manifest.parts["wide"].covers)
        yield manifest


def merged_alone(manifest: Manifest) -> set[str]:
    """Blobs of the merged deltas, but for those that a small delta has, too: few rows may say the same again."""
    small = {digest for part in manifest.parts.values() for delta in part.deltas for digest in delta}
    return {digest for part in manifest.parts.values() for digest in part.merged} - small


@pytest.mark.parametrize("behind", range(DELTAS_RETAINED + 2))
def test_what_was_merged_is_not_read_by_who_has_it(behind: int) -> None:
    """A merged delta isn't asked for by a ranker that is as many versions behind as a merge leaves, or fewer."""
    learner = Learner(4)
    manifests = list(merges(learner, 4))
    loader = VersionLoader(learner.store, "m")
    for before, merged in itertools.pairwise(manifests):
        if before.parts["wide"].covers == merged.parts["wide"].covers:
            continue
        live = loader.load(before.version - behind)
        learner.store.asked.clear()
        loader.load(merged.version, live)
        assert merged_alone(merged)
        assert merged_alone(merged) & learner.store.asked == (
            merged_alone(merged) if behind > DELTAS_RETAINED else set()
        )
        assert not {digest for part in merged.parts.values() for digest in part.base} & learner.store.asked


def test_each_version_costs_its_own_contents_whatever_is_merged() -> None:
    """A ranker that sees all versions reads one small delta per part and version, over merges too."""
    learner = Learner(4)
    loader = VersionLoader(learner.store, "m")
    live = loader.load(learner.publish().version)
    for manifest in merges(learner, 4):
        learner.store.asked.clear()
        live = loader.load(manifest.version, live)
        assert learner.store.asked == {digest for part in manifest.parts.values() for digest in part.deltas[-1]}


def base_of(manifest: Manifest) -> set[str]:
    """Blobs of all parts' bases."""
    return {digest for part in manifest.parts.values() for digest in part.base}


def rebased(*parts: str, lose: bool = False) -> tuple[Learner, VersionLoader, Version]:
    """A follower at the first version in which each of these parts has had a new base; its blobs are gone if `lose`."""
    learner = Learner(4, rebase_share=0.01)
    first = learner.publish()
    loader = VersionLoader(learner.store, "m")
    live = loader.load(first.version)
    while any(live.manifest.parts[part].base == first.parts[part].base for part in parts):
        manifest = learner.publish()
        if lose:
            learner.store.lost = {d for part in parts for d in manifest.parts[part].base} - base_of(first)
        live = loader.load(manifest.version, live)
    return learner, loader, live


def test_a_new_base_is_made_aside_by_who_has_what_it_holds() -> None:
    """Versions go on over the old base, none of them waits for the new one, and later ones stand on it."""
    learner, loader, live = rebased("wide", "statistics", "deep")
    manifest = live.manifest
    assert not learner.store.asked & base_of(manifest)
    assert_same(live, load_version(learner.store, "m", manifest.version), learner.model.page(6).tobytes())
    learner.store.asked.clear()
    deadline_s = time.monotonic() + 30.0
    while True:
        manifest = learner.publish()
        live = loader.load(manifest.version, live)
        assert live.tower is not None
        stands = {"wide": live.wide, "statistics": live.statistics, "deep": live.tower.embeddings}
        if all(list(layers.origin) == manifest.parts[name].base for name, layers in stands.items()):
            break
        assert time.monotonic() < deadline_s
    assert not learner.store.asked & learner.store.asked_aside
    assert_same(live, load_version(learner.store, "m", manifest.version), learner.model.page(6).tobytes())


def test_a_base_that_cant_be_had_is_done_without() -> None:
    """A ranker that has what it holds goes on; one that starts can't."""
    learner, loader, live = rebased("wide", lose=True)
    for _ in range(3 * DELTAS_MAX):
        manifest = learner.publish()
        live = loader.load(manifest.version, live)
    learner.store.lost = set()
    assert_same(live, load_version(learner.store, "m", manifest.version), learner.model.page(6).tobytes())


Work = Callable[[], LayeredTable]


@pytest.fixture
def aside(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TableBuilder, Work]]:
    """What would be made in other threads: it waits here until a test does it by `make`."""
    waiting: list[tuple[TableBuilder, Work]] = []

    def submit(stack: TableBuilder, work: Work) -> None:
        stack._pending = Future()
        waiting.append((stack, work))

    monkeypatch.setattr(TableBuilder, "_submit", submit)
    return waiting


def make(aside: list[tuple[TableBuilder, Work]]) -> None:
    """Do what waits."""
    for stack, work in aside:
        assert stack._pending is not None
        stack._pending.set_result(work())
    aside.clear()


def test_a_base_that_is_late_is_stood_on_all_the_same(aside: list[tuple[TableBuilder, Work]]) -> None:
    """What lay over it was merged before it was made: it isn't read again, and what came is laid over it aside."""
    learner, loader, live = rebased("wide")
    for chain in learner.chains.values():
        chain.rebase_share = 100.0
    for _ in range(2 * DELTAS_MAX):
        manifest = learner.publish()
        live = loader.load(manifest.version, live)
    assert manifest.parts["wide"].merged
    make(aside)
    live = loader.load(learner.publish().version, live)
    learner.store.asked.clear()
    for _ in range(3):  # the next merge may come between
        make(aside)
        manifest = learner.publish()
        live = loader.load(manifest.version, live)
        if list(live.wide.origin) == manifest.parts["wide"].base:
            break
    assert list(live.wide.origin) == manifest.parts["wide"].base
    assert not learner.store.asked & set(manifest.parts["wide"].base)
    assert_same(live, load_version(learner.store, "m", manifest.version), learner.model.page(6).tobytes())


def test_whatever_breaks_the_making_of_a_base_no_version_is_refused_for_it(
    aside: list[tuple[TableBuilder, Work]],
) -> None:
    """A ranker without room for two bases serves on."""
    learner, loader, live = rebased("wide")
    for stack, _ in aside:
        assert stack._pending is not None
        stack._pending.set_exception(MemoryError("no room"))
    manifest = learner.publish()
    live = loader.load(manifest.version, live)
    assert_same(live, load_version(learner.store, "m", manifest.version), learner.model.page(6).tobytes())


@pytest.mark.parametrize("doubt", ["token", "forgotten", "another of its number"])
def test_in_doubt_what_was_merged_is_read(doubt: str) -> None:
    """A live version of another learner, one that the store doesn't keep, or keeps otherwise: all is read."""
    learner = Learner(4)
    *manifests, merged = merges(learner, 2)
    loader = VersionLoader(learner.store, "m")
    live = loader.load(manifests[-1].version)
    if doubt == "token":
        learner.store.token += 1
        merged = learner.model.publish_parts(learner.store, merged.parts, golden=[], examples=0)
    elif doubt == "forgotten":
        learner.store.retain(1)
    else:
        live = replace(live, manifest=structs.replace(live.manifest, created_ms=live.manifest.created_ms + 1))
    learner.store.asked.clear()
    version = loader.load(merged.version, live)
    assert merged_alone(merged)
    assert merged_alone(merged) <= learner.store.asked
    assert_same(version, load_version(learner.store, "m", merged.version), learner.model.page(6).tobytes())


def test_what_a_merge_covers_is_told_by_the_versions_contents() -> None:
    """Base and merged delta are what the version held that they cover, but for keys that later small deltas hold."""
    learner = Learner(9)
    manifests = {manifest.version: manifest for manifest in merges(learner, 3)}
    newest = manifests[max(manifests)].parts["wide"]
    assert isinstance(newest.covers, int)
    covered = load_version(learner.store, "m", newest.covers)
    later = {key for delta in newest.deltas for key in fetch(learner.store, delta)["keys"].tolist()}
    held: dict[int, float] = {}
    for digests in newest.payloads()[:2]:
        content = fetch(learner.store, digests)
        held.update(zip(content["keys"].tolist(), content["weights"].tolist(), strict=True))
    weights = {key: float(np.frombuffer(raw, np.float32)[0]) for key, raw in values(covered.wide).items()}
    assert any(key not in later for key in held)
    for key in ({*held, *weights}) - later:
        assert held.get(key, 0.0) == weights.get(key, 0.0)
