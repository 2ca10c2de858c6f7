"""JIT warm-up: a tiny model is published, loaded and ranked with in memory, so that every kernel is compiled."""

from collections.abc import Mapping
from functools import partial
from typing import Final

import numpy as np

from ranker.explore.draws import upper_bound
from ranker.explore.exploration import draw_of
from ranker.kernels.retrieval import changes_between, together_with, user_vector, vectors_at
from ranker.ranking.rank import rank_with
from ranker.ranking.score import Scorer
from ranker.ranking.selection import choose
from ranker.retrieval.item_counts import installs_of
from ranker.rules.item_tests import item_rows
from ranker.rules.page_rules import PageRules
from ranker.rules.rulebook import Rulebook
from ranker.versions.model import Version, score_features
from ranker.versions.version_loader import VersionLoader
from stream.events.types import Item, RankRequest
from stream.features.page_features import Catalogue, build_page
from stream.features.statistics import WIDTH
from stream.snapshots.manifest import Manifest, PartVersion
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.payload import Array, digests_of, pack, split
from stream.snapshots.retrieval_rows import RETRIEVAL_PART
from stream.snapshots.store import SnapshotStore
from stream.spec.spec_file import encode_spec, parse_spec
from stream.tables.dtypes import F64, I64

TINY: Final = """
name = "warm-up"
user = { id = "category", age = "number", history = { of = "item.id" } }
item = { id = "category", tags = "categories", price = "number" }
statistics.rate = { kind = "rate", by = ["item.id"] }
statistics.near = { kind = "affinity", of = "item.id", to = "user.history" }
wide = { features = ["item.id"], crosses = [["user.history", "item.id"]] }
deep = { features = ["user.id", "item.tags", "user.age", "statistics.*"], hidden_units = [4], embedding_dim = 2 }
rules.kept = { kind = "require", of = "item.tags", values = ["x"] }
rules.varied = { kind = "cap", of = "item.tags", count = 2 }
rules.mixed = { kind = "diversity", by = ["item.tags"], strength = 0.5 }
explore = { kind = "thompson" }
retrieval = { together = 1, neighbours = 1, kept = { list_length = 2, vector_dim = 2 } }
"""


def compile_kernels(scorer: Scorer) -> None:
    """Compile (or load from numba's cache) all that swapping and ranking need."""
    store = MemoryStore("warm-up")
    loader = VersionLoader(store, "warm-up")
    version: Version | None = None
    parts: dict[str, PartVersion] = {}
    for number in (1, 2):  # a base, then a delta over it
        parts = {part: _extended(store, parts.get(part), payload) for part, payload in _payloads().items()}
        _publish(store, number, parts)
        version = loader.load(number, version)
        _rank(version, scorer)
    assert version is not None
    assert version.tower is not None
    for table in (version.wide, version.statistics, version.tower.embeddings):
        table.compacted()


def _rank(version: Version, scorer: Scorer) -> None:
    layout = version.plan.layout
    catalogue = Catalogue(layout)
    items = {name: Item(name, {"tags": ["x"], "price": 1.0}) for name in ("a", "b")}
    rows = np.array([*map(catalogue.put, items.values())], np.int64)
    installs_of(version, np.array([1, 2], np.uint64))
    words = build_page(layout, layout.user("u", {"age": 1.0}, ["a"], {}), catalogue, rows)
    upper_bound(np.ones(2))(np.ones(2))
    ranked = rank_with(version, words, 1, 2, scorer, explorer=partial(draw_of, "r"))
    scores = score_features(version, ranked.features, 2)
    assert np.allclose(scores, ranked.scores), "the warm-up model doesn't rank"
    rules = Rulebook(version.plan.spec, catalogue, items).page(RankRequest("r", "u"), {}, [])
    _order(rules, [*items], rows, scores.astype(np.float64))
    assert version.learned_items is not None
    learned, ids = version.learned_items.view, np.ones(1, np.uint64)
    together_with(learned.rows, ids)
    changes_between(learned.rows, learned.rows, True)
    assert (
        len(user_vector(learned.rows, ids))
        == len(learned.vectors.outputs)
        == len(vectors_at(learned.rows, ids).outputs)
    )


def _order(rules: PageRules, names: list[str], rows: I64, scores: F64) -> None:
    candidates = item_rows(names, rows)
    kept = rules.kept(candidates, names)
    chosen = choose(scores, 2, rules.places(candidates, scores, 2)).order
    places = rules.places(candidates, scores, 2)
    filled = places.fill()
    assert kept.all(), "the filter reads another attribute"
    assert chosen == filled, "position by position is something else than at once"
    rules.count(places)


def _payloads() -> Mapping[str, Mapping[str, Array]]:
    one = np.ones(1, np.uint64)
    rows = np.zeros((1, WIDTH), np.uint64)
    rows[0, 0] = 1
    shapes = {
        "vectors": (1, 2),
        "boundaries": (3, 63),
        "weight_0": (10, 4),
        "bias_0": (4,),
        "weight_1": (4, 1),
        "bias_1": (1,),
    }
    deep: dict[str, Array] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    wide: dict[str, Array] = {"keys": one, "weights": np.zeros(1, np.float32)}
    numbers: dict[str, Array] = {name: np.ones(1, np.float32) for name in ("installs", "biases")}
    lists: dict[str, Array] = {name: np.ones((1, 2), np.float32) for name in ("weights", "inputs", "outputs")}
    retrieval: dict[str, Array] = {"keys": one, "listed": np.ones((1, 2), np.uint64), **numbers, **lists}
    return {"wide": wide, "statistics": {"rows": rows}, "deep": {"keys": one, **deep}, RETRIEVAL_PART: retrieval}


def _extended(store: SnapshotStore, part: PartVersion | None, payload: Mapping[str, Array]) -> PartVersion:
    raw = pack(payload)
    store.put_blobs(split(raw))
    named = digests_of(raw)
    return PartVersion(named) if part is None else PartVersion(part.base, part.merged, [*part.deltas, named])


def _publish(store: SnapshotStore, number: int, parts: dict[str, PartVersion]) -> None:
    spec = parse_spec(TINY)
    store.publish(
        Manifest(
            model=spec.name,
            version=number,
            parent=number - 1,
            fingerprint=spec.fingerprint(),
            spec=encode_spec(spec),
            token=store.take_token(),
            offset={},
            examples=0,
            watermark_ms=1,
            learned_ms=1,
            created_ms=1,
            metrics={},
            parts=parts,
        )
    )
