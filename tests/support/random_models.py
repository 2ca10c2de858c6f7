"""Random models of random specs, published as a learner would, and scored in plain Python: the tests' oracle."""

import itertools
from dataclasses import dataclass, field

import numpy as np

from stream.events.types import INSTALLED, LATE_POSITIVE, RETRACTION, WINDOW_CLOSED, Item, Organic, Value
from stream.features.encoder import Encoder, one_page
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Catalogue, Layout, build_page, statistics_of
from stream.features.serve_as import as_served
from stream.features.statistics import Statistics, StatisticsProgram
from stream.snapshots.manifest import Golden, Manifest, PartVersion
from stream.snapshots.payload import Array, Digests, Payload, digests_of, pack, split
from stream.snapshots.store import SnapshotStore
from stream.spec.spec import Spec
from stream.spec.spec_file import encode_spec, parse_spec
from stream.tables.dtypes import U64

COLUMNS = """
user.id = "category"
user.age = { type = "number", bands = [18, 40] }
user.likes = "categories"
user.history = { of = "item.id", last = 5 }
item.id = "category"
item.tags = "categories"
item.year = "number"
item.made = { type = "date", bands = [0.001, 0.01] }
context.position = { type = "number", serve_as = 1 }
"""
CONTEXT = """
context.device = "category"
context.hour = { type = "number", bands = [6, 18] }
"""
HELD = """
context.device = { type = "category", serve_as = "y" }
context.hour = { type = "number", bands = [6, 18], serve_as = 20 }
"""
STATISTICS = """
item_rate = { kind = "rate", by = ["item.id"], prior = 5, half_life = "1h" }
user_seen = { kind = "count", by = ["user.id"] }
item_last = { kind = "since", by = ["item.id"] }
taste = { kind = "residual", by = ["user.id", "item.tags"] }
akin = { kind = "likeness", by = ["user.id", "item.id"], neighbours = 3 }
together = { kind = "lift", of = "installs", by = ["user.id", "item.id"], neighbours = 3, prior = 2 }
then = { kind = "residual", by = ["user.history.newest", "item.id"] }
alike = { kind = "affinity", of = "item.id", to = "user.history", neighbours = 2 }
"""
WIDE = ["user.id", "item.id", "item.tags", "user.age_band", "context.device", "context.hour_band", "page.hour"]
CROSSES = [
    ["user.history", "item.id"],
    ["user.history.newest", "item.id"],
    ["item.made_band", "page.weekday"],
    ["user.likes", "item.tags"],
    ["item.id", "user.age_band", "context.device"],
]
DEEP = ["user.age", "user.likes", "user.history", "item.tags", "item.year", "context.position", "context.hour",
        "context.device", "item.made", "item.made_band", "item.year.rank", "user.history.newest", "page.hour",
        "statistics.*"]  # fmt: skip


def some_spec(rng: np.random.Generator, parts: list[str], name: str = "m") -> Spec:
    """A spec with a random choice of features; what of the context is held still when ranking is by chance, too."""
    context = [line for pair in zip(CONTEXT.split("\n"), HELD.split("\n"), strict=True) for line in [rng.choice(pair)]]
    statistics = [line for line in STATISTICS.strip().splitlines() if rng.random() < 0.7]
    wide = [f for f in WIDE if rng.random() < 0.5] or ["item.id"]
    crosses = [c for c in CROSSES if rng.random() < 0.7]
    deep = [f for f in DEEP if rng.random() < 0.7] or ["item.tags"]
    if deep == ["statistics.*"] and not statistics:
        deep = ["item.tags"]
    hidden = [int(n) for n in rng.integers(1, 9, rng.integers(0, 3))]
    return parse_spec(
        f"name = {name!r}\nparts = {parts}\n{COLUMNS}{chr(10).join(context)}\n[statistics]\n" + "\n".join(statistics) +
        f"\n[wide]\nfeatures = {wide}\ncrosses = {crosses}\n"
        f"[deep]\nfeatures = {deep}\nembedding_dim = {int(rng.integers(1, 9))}\nquantiles = {int(rng.integers(2, 9))}\n"
        f"hidden_units = {hidden}\n[label]\norganic = \"examples\"\n"
    )  # fmt: skip


def items(count: int) -> list[Item]:
    """Items i0, i1, … of falling popularity."""
    tags = [["a"], ["a", "b"], [], ["c", "d", "a"]]
    said: list[dict[str, Value]] = [{"tags": tags[n % 4], "year": 1990.0 + n, "made": -3e4 * n} for n in range(count)]
    return [Item(f"i{n}", said[n] if n % 5 else {}, f"Item {n}", float(count - n)) for n in range(count)]


@dataclass
class Chain:
    """Contents of one part, as they were named by versions so far, and what they hold since the base."""

    version: PartVersion | None = None
    content: list[Payload] = field(default_factory=list)


class ToyModel:
    """A model that "learns" by chance: keys and vectors change, appear and go. `publish` puts what changed."""

    def __init__(self, spec: Spec, seed: int = 0) -> None:
        self.spec, self.rng = spec, np.random.default_rng(seed)
        self._reports = np.random.default_rng(seed + 1)  # of corrections and organic installs
        self.layout = Layout(spec)
        self.encoder = Encoder(spec, self.layout)
        self.statistics = Statistics(StatisticsProgram(spec, self.layout))
        self.catalogue = Catalogue(self.layout)
        for item in items(30):
            self.catalogue.put(item)
        self.wide: dict[int, float] = {}
        self.vectors: dict[int, np.ndarray] = {0: self._vector()}
        self.dead: set[int] = set()
        self.layers: list[tuple[np.ndarray, np.ndarray]] = []
        self.boundaries = np.zeros((0, 0), np.float32)
        self.fresh: dict[str, set[int]] = {"wide": set(), "deep": {0}}
        self.since_base: dict[str, set[int]] = {"wide": set(), "deep": set(), "statistics": set()}
        self.parts: dict[str, PartVersion] = {}
        self.number = 0
        self._seen: set[int] = set()
        self.learn()

    def _vector(self) -> np.ndarray:
        return self.rng.normal(0, 1, self.spec.deep.embedding_dim).astype(np.float32)

    def page(self, n: int = 7, *, time_ms: int = 1_000_000) -> U64:
        """A page of random items for a random user, statistics filled."""
        rng = self.rng
        rows = self.catalogue.rows([f"i{i}" for i in rng.choice(40, n, replace=False)])
        history = [f"i{i}" for i in rng.choice(30, rng.integers(0, 9))]
        attributes: dict[str, Value] = {"age": float(rng.integers(10, 70)), "likes": ["a", "b"][: rng.integers(0, 3)]}
        context: dict[str, Value] = {"device": "xyz"[rng.integers(3)]} if rng.random() < 0.8 else {}
        context |= {"hour": float(rng.integers(24))} if rng.random() < 0.8 else {}
        user = self.layout.user(f"u{rng.integers(5)}", attributes if rng.random() < 0.9 else {}, history, context)
        words = build_page(self.layout, user, self.catalogue, rows, time_ms)
        self.statistics.fill(words, time_ms)
        return words

    def learn(self, pages: int = 4) -> None:
        """Change weights, vectors, layers and statistics by chance, on keys that pages have."""
        rng = self.rng
        for _ in range(pages):
            words = self.page(time_ms=int(rng.integers(1, 10_000_000)))
            batch = one_page(words)
            n = len(batch.page)
            labels = rng.integers(0, 2, n).astype(np.float64)
            times_ms, late = rng.random(n) * 1e7, self._reports.random(n) < 0.2
            positive, negative = np.where(late, LATE_POSITIVE, INSTALLED), np.where(late, RETRACTION, WINDOW_CLOSED)
            reasons = np.where(labels > 0, positive, negative)
            self.statistics.learn(batch, Outcomes(labels, np.ones(n), reasons, times_ms))
            user, item = self._reports.integers(5), self._reports.integers(40)
            self.statistics.learn_organic([Organic(f"u{user}", f"i{item}", 1_000, "x")])
            for key in self.encoder.wide_keys(batch).keys[:: int(rng.integers(1, 3))].tolist():
                self.wide[key] = 0.0 if rng.random() < 0.2 else float(np.float32(rng.normal(0, 0.3)))
                self.fresh["wide"].add(key)
            for key in self.encoder.deep_input(batch).ids.tolist():
                self.vectors[key] = self._vector()
                self.fresh["deep"].add(key)
        for key in [k for k in self.vectors if k and rng.random() < 0.1]:
            del self.vectors[key]
            self.fresh["deep"].add(key)
        if "deep" in self.spec.parts:
            self._learn_dense()

    def _learn_dense(self) -> None:
        numbers, deep = len(self.encoder.deep_numbers), self.spec.deep
        widths = [len(self.encoder.deep_lists) * deep.embedding_dim + 2 * numbers, *deep.hidden_units, 1]
        self.layers = [
            (self.rng.normal(0, 0.5, (i, o)).astype(np.float32), self.rng.normal(0, 0.1, o).astype(np.float32))
            for i, o in itertools.pairwise(widths)
        ]
        if numbers and self.rng.random() < 0.8:
            self.boundaries = np.sort(self.rng.normal(0, 2, (numbers, deep.quantiles - 1)).astype(np.float32), axis=1)

    def contents(self, keys: dict[str, set[int]] | None) -> dict[str, Payload]:
        """What parts hold of these keys; all when None."""
        of = {"wide": set(self.wide), "deep": set(self.vectors)} if keys is None else keys
        rows = self.statistics.rows()
        if keys is not None:
            rows = rows[np.isin(rows[:, 0], list(keys["statistics"]))]
        wide = sorted(of["wide"])
        contents: dict[str, Payload] = {
            "wide": {"keys": np.array(wide, np.uint64), "weights": np.array([self.wide[k] for k in wide], np.float32)},
            "statistics": {"rows": rows},
        }
        if self.spec.explore.needs_uncertainty:
            contents["wide"] = {**contents["wide"], "sums": np.array([k >> 8 & 255 for k in wide], np.uint8)}
        if "deep" in self.spec.parts:
            live = sorted(of["deep"] & set(self.vectors))
            vectors = np.array([self.vectors[k] for k in live], np.float32).reshape(-1, self.spec.deep.embedding_dim)
            deep: dict[str, Array] = {
                "keys": np.array(live, np.uint64),
                "vectors": vectors,
                "boundaries": self.boundaries,
            }
            for i, (weight, bias) in enumerate(self.layers):
                deep[f"weight_{i}"], deep[f"bias_{i}"] = weight, bias
            if keys is not None:
                deep["dead"] = np.array(sorted(of["deep"] - set(self.vectors)), np.uint64)
            contents["deep"] = deep
        return contents

    def taken(self) -> U64:
        """Keys of statistics that changed since the last call."""
        return np.concatenate([t.take_changed()[:, 0] for t in (self.statistics.table, self.statistics.likenesses)])

    def publish(self, store: SnapshotStore, how: str = "delta", **changes: object) -> Manifest:
        """Publish what changed: a "base", a "merged" delta or a small "delta" more. `changes` are of the manifest."""
        fresh = {**self.fresh, "statistics": set(self.taken().tolist())}
        for part, keys in fresh.items():
            self.since_base[part] |= keys
        if how == "base" or not self.parts:
            self.parts = {part: PartVersion(_put(store, c)) for part, c in self.contents(None).items()}
            self.since_base = {part: set() for part in self.since_base}
        elif how == "merged":
            contents = self.contents(self.since_base)
            self.parts = {p: PartVersion(self.parts[p].base, _put(store, c)) for p, c in contents.items()}
        else:
            for part, content in self.contents(fresh).items():
                held = self.parts[part]
                self.parts[part] = PartVersion(held.base, held.merged, [*held.deltas, _put(store, content)])
        self.fresh = {"wide": set(), "deep": set()}
        return self.publish_parts(store, self.parts, **changes)

    def publish_parts(self, store: SnapshotStore, parts: dict[str, PartVersion], **changes: object) -> Manifest:
        """Publish a version of these parts, with two golden pages."""
        self.number += 1
        pages = [self.page(n) for n in (1, 5)]
        watermark_ms = changes.get("watermark_ms", 1_000_000 + self.number)
        assert isinstance(watermark_ms, int), "it's a time"
        given: dict[str, object] = {
            "model": self.spec.name,
            "version": self.number,
            "parent": self.number - 1,
            "fingerprint": self.spec.fingerprint(),
            "spec": encode_spec(self.spec),
            "token": store.take_token(),
            "offset": {0: self.number},
            "examples": self.number,
            "watermark_ms": watermark_ms,
            "learned_ms": 2_000_000 + self.number,
            "created_ms": 3_000_000 + self.number,
            "metrics": {},
            "parts": parts,
            "ingest_ms": [2_000_000 + self.number],
            "golden": [Golden(page.tobytes(), self.scores(page), self._told(page, watermark_ms)) for page in pages],
        }
        manifest = Manifest(**(given | changes))  # type: ignore[arg-type]  # of the fields' types, as above
        store.publish(manifest)
        return manifest

    def _told(self, words: U64, watermark_ms: int) -> bytes:
        """What the statistics say of a page then."""
        again = words.copy()
        self.statistics.fill(again, watermark_ms)
        return statistics_of(self.layout, again).tobytes()

    def scores(self, words: U64) -> list[float]:
        """What a page's items score: the model's formula, item by item, in float64."""
        batch = one_page(as_served(self.layout, words))
        keys, given = self.encoder.wide_keys(batch), self.encoder.deep_input(batch, serving=True)
        lists = len(self.encoder.deep_lists)
        found = []
        for b in range(len(batch.page)):
            logit = sum(self.wide.get(k, 0.0) for k in keys.keys[keys.offsets[b] : keys.offsets[b + 1]].tolist())
            if "deep" in self.spec.parts:
                ends = given.offsets[b * lists : (b + 1) * lists + 1]
                pooled = [self._pooled(given.ids[a:z].tolist()) for a, z in itertools.pairwise(ends)]
                logit += self._tower(np.concatenate([*pooled, *self._numbers(given.numbers[b])]))
            found.append(float(1 / (1 + np.exp(-logit))))
        return found

    def _pooled(self, ids: list[int]) -> np.ndarray:
        vectors = [self.vectors.get(i, self.vectors[0]).astype(np.float64) for i in ids]
        total = sum(vectors, np.zeros(self.spec.deep.embedding_dim))
        return np.asarray(total / np.sqrt(max(1, len(ids))))

    def _numbers(self, numbers: np.ndarray) -> list[list[float]]:
        values, flags = [], []
        for d, x in enumerate(numbers):
            flags.append(float(np.isnan(x)))
            if np.isnan(x):
                values.append(0.0)
            elif not self.boundaries.size:
                values.append(0.5)
            else:
                values.append(np.searchsorted(self.boundaries[d], x, side="left") / len(self.boundaries[d]))
        return [values, flags]

    def _tower(self, x: np.ndarray) -> float:
        for i, (weight, bias) in enumerate(self.layers):
            x = x @ weight.astype(np.float64) + bias
            if i < len(self.layers) - 1:
                x = np.maximum(x, 0)
        return float(x[0])


def _put(store: SnapshotStore, content: Payload) -> Digests:
    raw = pack(content)
    store.put_blobs(split(raw))
    return digests_of(raw)
