"""What is fetched for a version, and which versions are rejected."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ranker.versions.model import score_features
from ranker.versions.version_loader import VersionLoader, load_version
from stream.runtime.errors import BadSnapshot
from stream.snapshots.manifest import Golden, PartVersion
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.payload import Array, Digests, digests_of, pack, split
from stream.snapshots.store import fetch
from stream.tables.delta_table import TOMBSTONE, lookup
from tests.support.random_models import ToyModel, some_spec

Break = Callable[[dict[str, Array]], None]


class CountingStore(MemoryStore):
    """A store that remembers which blobs were asked for."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.asked: list[str] = []

    def get_blob(self, digest: str) -> bytes:
        """See SnapshotStore."""
        self.asked.append(digest)
        return super().get_blob(digest)


@pytest.fixture
def store() -> CountingStore:
    """An empty store."""
    return CountingStore("m")


@pytest.fixture
def model() -> ToyModel:
    """A model of both parts, with an embedding and numbers."""
    return ToyModel(some_spec(np.random.default_rng(7), ["wide", "deep"]), 7)


def test_only_new_contents_are_fetched(store: CountingStore, model: ToyModel) -> None:
    """The next version costs its new contents: of a small delta one per part; of a merged one not the base."""
    loader = VersionLoader(store, "m")
    model.publish(store, "base")
    version = loader.load(1)
    for number, step in enumerate(["delta", "delta", "merged", "delta"], 2):
        model.learn()
        model.publish(store, step)
        store.asked.clear()
        version = loader.load(number, version)
        newest = {(p.deltas or [p.merged])[-1][0] for p in model.parts.values()}
        assert sorted(store.asked) == sorted(newest)


def test_deltas_that_outlive_a_merge_arent_fetched_again(store: CountingStore, model: ToyModel) -> None:
    """When some small deltas are merged, those that stay are remembered."""
    loader = VersionLoader(store, "m")
    model.publish(store, "base")
    first = loader.load(1)
    model.learn()
    model.publish(store, "delta")
    model.learn()
    model.publish(store, "delta")
    version = loader.load(3, first)
    parts = {n: PartVersion(p.base, _renamed(store, p.deltas[0]), [p.deltas[1]]) for n, p in model.parts.items()}
    store.asked.clear()
    model.publish_parts(store, parts)
    loader.load(4, version)
    assert sorted(store.asked) == sorted(p.merged[0] for p in parts.values())


def _renamed(store: CountingStore, digests: Digests) -> Digests:
    """The same content under another name, as a merged delta of one would be."""
    raw = pack({**fetch(store, digests), "more": np.zeros(1, np.uint64)})
    store.put_blobs(split(raw))
    return digests_of(raw)


def test_a_part_that_did_not_change_is_shared(store: CountingStore, model: ToyModel) -> None:
    """A version whose manifest names the same contents has the same arrays; a delta leaves the base where it is."""
    loader = VersionLoader(store, "m")
    model.publish(store, "base")
    first = loader.load(1)
    model.publish_parts(store, model.parts)
    second = loader.load(2, first)
    assert second.wide is first.wide
    assert second.statistics is first.statistics
    assert second.tower is first.tower
    model.learn()
    model.publish(store)
    third = loader.load(3, second)
    assert third.wide.base is first.wide.base
    assert third.statistics.base is first.statistics.base
    assert first.tower is not None
    assert third.tower is not None
    assert third.tower.embeddings.vectors is first.tower.embeddings.vectors


def _drop(name: str) -> Break:
    def broken(content: dict[str, Array]) -> None:
        del content[name]

    return broken


def _replace(name: str, change: Callable[[Array], Array]) -> Break:
    def broken(content: dict[str, Array]) -> None:
        content[name] = change(content[name])

    return broken


def _not_finite(rows: Array) -> Array:
    rows = rows.copy()
    rows.view(np.float64)[0, 1] = np.nan
    return rows


def _first_again(rows: Array) -> Array:
    rows = rows.copy()
    rows[-1] = rows[0]
    return rows


BROKEN: dict[str, tuple[str, Break]] = {
    "no weights": ("wide", _drop("weights")),
    "fewer weights than keys": ("wide", _replace("weights", lambda a: a[:-1])),
    "weights of float64": ("wide", _replace("weights", lambda a: a.astype(np.float64))),
    "a key of 0": ("wide", _replace("keys", np.zeros_like)),
    "a weight's key twice": ("wide", _replace("keys", _first_again)),
    "a statistic's key twice": ("statistics", _replace("rows", _first_again)),
    "narrow statistics": ("statistics", _replace("rows", lambda a: a[:, :3].copy())),
    "a statistic that is NaN": ("statistics", _replace("rows", _not_finite)),
    "no layer": ("deep", _drop("weight_0")),
    "a layer of another shape": ("deep", _replace("weight_0", lambda a: a[:-1].copy())),
    "a bias of another shape": ("deep", _replace("bias_0", lambda a: a[:0].copy())),
    "vectors of another width": ("deep", _replace("vectors", lambda a: a[:, :-1].copy())),
    "fewer vectors than keys": ("deep", _replace("vectors", lambda a: a[:-1].copy())),
    "a row's key twice": ("deep", _replace("keys", lambda a: np.full_like(a, a[-1]))),
    "boundaries of another width": ("deep", _replace("boundaries", lambda a: np.zeros((1, 99), np.float32))),
    "falling boundaries": ("deep", _replace("boundaries", lambda a: np.flip(np.sort(_full(a), axis=1), axis=1).copy())),
}


def _full(boundaries: Array) -> Array:
    assert boundaries.size > 1, "the model of these tests has boundaries"
    return boundaries


@pytest.mark.parametrize("what", BROKEN)
def test_a_content_that_does_not_fit_its_spec_is_refused(store: CountingStore, model: ToyModel, what: str) -> None:
    """Shapes, dtypes, keys and numbers of every content are validated against the spec: BadSnapshot, nothing else."""
    part, breaks = BROKEN[what]
    model.publish(store, "base")
    content = dict(fetch(store, model.parts[part].base))
    breaks(content)
    raw = pack(content)
    store.put_blobs(split(raw))
    model.publish_parts(store, {**model.parts, part: PartVersion(digests_of(raw))}, golden=[], examples=0)
    load_version(store, "m", 1)
    with pytest.raises(BadSnapshot):
        load_version(store, "m", 2)


@pytest.mark.parametrize("what", [what for what in BROKEN if what.endswith("twice")])
def test_a_key_that_a_delta_has_twice_is_refused(store: CountingStore, model: ToyModel, what: str) -> None:
    """Which of its rows counts nobody could say. What follows is served."""
    part, breaks = BROKEN[what]
    model.publish(store, "base")
    live = VersionLoader(store, "m").load(1)
    model.learn()
    model.publish(store)
    sound = model.parts[part]
    content = dict(fetch(store, sound.deltas[-1]))
    breaks(content)
    raw = pack(content)
    store.put_blobs(split(raw))
    parts = {**model.parts, part: PartVersion(sound.base, [], [digests_of(raw)])}
    model.publish_parts(store, parts, golden=[], examples=0)
    loader = VersionLoader(store, "m")
    with pytest.raises(BadSnapshot, match="twice"):
        loader.load(3, live)
    assert loader.load(2, live).number == 2


@pytest.mark.parametrize("part", ["wide", "statistics", "deep"])
def test_a_version_without_a_part_of_its_spec_is_refused(store: CountingStore, model: ToyModel, part: str) -> None:
    """A manifest must name every part that its spec asks for."""
    model.publish(store)
    model.publish_parts(store, {n: p for n, p in model.parts.items() if n != part}, golden=[], examples=0)
    with pytest.raises(BadSnapshot, match=part):
        load_version(store, "m", 2)


def test_golden_rows_decide(store: CountingStore, model: ToyModel) -> None:
    """A version that scores a golden page otherwise than its publisher says, by over 1e-4, is rejected."""
    page = model.page(4)
    scores = np.array(model.scores(page))
    for number, (off, fine) in enumerate([(5e-5, True), (-3e-4, False), (3e-4, False)], 1):
        published = np.where(np.arange(4) == 2, np.where(scores > 0.5, scores - abs(off), scores + abs(off)), scores)
        model.publish(store, "base", golden=[Golden(page.tobytes(), published.tolist())])
        if fine:
            load_version(store, "m", number)
        else:
            with pytest.raises(BadSnapshot, match="golden"):
                load_version(store, "m", number)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"fingerprint": "0" * 16}, "carries another"), ({"spec": b"{}"}, "spec"), ({"spec": b"\xff"}, "spec")],
)
def test_a_version_of_another_spec_is_refused(
    store: CountingStore, model: ToyModel, change: dict[str, Any], says: str
) -> None:
    """The spec must be readable, and the one whose fingerprint the manifest gives."""
    model.publish(store, **change)
    with pytest.raises(BadSnapshot, match=says):
        load_version(store, "m", 1)


def test_a_refused_version_leaves_nothing_behind(store: CountingStore, model: ToyModel) -> None:
    """The changes of a rejected version aren't seen by the version after it."""
    loader = VersionLoader(store, "m")
    model.publish(store, "base")
    live = loader.load(1)
    before = dict(model.parts)
    model.learn()
    model.publish(store, golden=[Golden(model.page(2).tobytes(), [0.0, 1.0])])
    with pytest.raises(BadSnapshot, match="golden"):
        loader.load(2, live)
    model.publish_parts(store, before, golden=[], examples=0)
    page = model.page(9).tobytes()
    assert (score_features(loader.load(3, live), page, 9) == score_features(live, page, 9)).all()
    model.parts = before
    model.publish(store, "delta", golden=[], examples=0)
    whole = score_features(load_version(store, "m", 4), page, 9)
    assert (score_features(loader.load(4, live), page, 9) == whole).all()


@pytest.mark.parametrize("part", ["wide", "statistics", "deep"])
def test_dead_keys_are_gone(store: CountingStore, model: ToyModel, part: str) -> None:
    """A delta's dead keys have no row any more, in a chain as in one load; a later row brings one back."""
    loader = VersionLoader(store, "m")
    model.publish(store, "base")
    first = loader.load(1)
    base = fetch(store, model.parts[part].base)
    keys = np.array(base["rows"][:, 0] if part == "statistics" else base["keys"], np.uint64)
    dead = keys[keys != 0][::2]
    empty = {n: a[:0] if n in ("keys", "vectors", "weights", "rows") else a for n, a in base.items()}
    model.publish_parts(store, _with(store, model, part, [{**empty, "dead": dead}]), golden=[], examples=0)
    second = loader.load(2, first)
    back = np.isin(keys, dead[:3])
    again = {n: a[back] if n in ("keys", "vectors", "weights", "rows") else a for n, a in base.items()}
    model.publish_parts(store, _with(store, model, part, [{**empty, "dead": dead}, again]), golden=[], examples=0)
    for number, gone in ((2, set(dead.tolist())), (3, set(dead[3:].tolist()))):
        for version in (loader.load(number, second), load_version(store, "m", number)):
            assert version.tower is not None
            rows = {"wide": version.wide, "statistics": version.statistics, "deep": version.tower.embeddings}[part].view
            entries = [lookup(rows.heads, rows.entries, rows.limit, key) for key in keys]
            assert {int(k) for k, e in zip(keys, entries, strict=True) if e == TOMBSTONE} == gone
    page = model.page(9)
    assert np.isfinite(score_features(second, page.tobytes(), 9)).all()


def _with(store: CountingStore, model: ToyModel, part: str, contents: list[dict[str, Array]]) -> dict[str, PartVersion]:
    deltas = []
    for content in contents:
        raw = pack(content)
        store.put_blobs(split(raw))
        deltas.append(digests_of(raw))
    return {**model.parts, part: PartVersion(model.parts[part].base, [], deltas)}


def test_a_long_chain_is_folded_on_the_way(store: CountingStore, model: ToyModel) -> None:
    """However many deltas come, built one after the other they score like one load; the room they take is bounded."""
    loader = VersionLoader(store, "m")
    model.publish(store, "base")
    version = loader.load(1)
    for number in range(2, 60):
        model.learn(1)
        model.publish(store, golden=[], examples=0)
        version = loader.load(number, version)
    page = model.page(20).tobytes()
    assert (score_features(version, page, 20) == score_features(load_version(store, "m", 59), page, 20)).all()
    sizes = [layers.delta.room / max(256, len(layers.base)) for layers in (version.wide, version.statistics)]
    assert max(sizes) < 20
