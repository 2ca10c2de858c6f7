"""Serving models with random weights for the benchmarks, published like a learner's; and pages to rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from benchmarks.golden import ITEMS, PAGES, GoldenPages
from learner.training.progressive_validation import ProgressiveValidation
from learner.training.shown_items import GENERATION_MAX
from learner.training.slices import Slices
from ranker.kernels.plan import Plan
from stream.events.types import Item, Value
from stream.features.encoder import one_page
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Catalogue, build_page
from stream.features.statistics import Statistics, StatisticsProgram
from stream.runtime.formats import MANIFEST
from stream.snapshots.item_names import ITEMS_PART, pack_names
from stream.snapshots.manifest import Manifest, PartVersion
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.payload import Array, Digests, Payload, digests_of, pack, split
from stream.snapshots.redis_store import RedisStore
from stream.snapshots.store import fetch
from stream.spec.spec import Spec
from stream.spec.spec_file import encode_spec
from stream.tables.dtypes import F32, U64

GENRES = 18
WATERMARK_MS = 2_000_000
INSTALLS = 100  # first learned in a version: 250 ms at 400 a second


class World:
    """Users and items of a spec: each column of each entity is drawn once; histories are of popular items."""

    def __init__(self, spec: Spec, items: int, users: int, seed: int = 7) -> None:
        self.plan, self.random = Plan(spec), np.random.default_rng(seed)
        self.catalogue = Catalogue(self.plan.layout)
        self.users = users
        self.described = [Item(f"i{i}", self._attributes("item", spec)) for i in range(items)]
        for item in self.described:
            self.catalogue.put(item)
        self.attributes_of = [self._attributes("user", spec) for _ in range(users)]

    def _attributes(self, origin: str, spec: Spec) -> dict[str, Value]:
        random, drawn = self.random, dict[str, Value]()
        for name, column in spec.columns().items():
            side, short = name.split(".", 1)
            if side != origin or short == "id" or column.of or short.endswith("_band"):
                continue
            if column.type == "number":
                drawn[short] = float(random.integers(10, 80))
            elif column.type == "categories":
                drawn[short] = [f"g{g}" for g in random.choice(GENRES, random.integers(1, 4), replace=False)]
            else:
                drawn[short] = f"v{int(random.zipf(1.3)) % 1_000}"
        return drawn

    def items(self, count: int) -> list[str]:
        """Distinct items, drawn by popularity."""
        known = len(self.catalogue) - 1
        drawn = (known * self.random.power(0.4, 4 * count)).astype(int)
        return [f"i{i}" for i in dict.fromkeys((known - 1 - drawn).tolist())][:count]

    def request(self, candidates: int) -> "Asked":
        """A decoded request: user, history, candidates."""
        user = int(self.random.integers(self.users))
        drawn = self.random.permutation(self.items(4 * candidates))[:candidates]
        assert len(drawn) == candidates, "the world is too small"
        return Asked(f"u{user}", self.attributes_of[user], self.items(50), drawn.tolist())

    def page(self, asked: "Asked") -> U64:
        """The request's page, statistics not filled."""
        layout = self.plan.layout
        user = layout.user(asked.user, asked.attributes, asked.history, {})
        return build_page(layout, user, self.catalogue, self.catalogue.rows(asked.candidates))


@dataclass(frozen=True)
class Asked:
    """A request as it was decoded."""

    user: str
    attributes: dict[str, Value]
    history: Sequence[str]
    candidates: Sequence[str]


class Publisher:
    """Publishes versions of a random model: a base, then deltas of any size."""

    def __init__(
        self, world: World, store: MemoryStore | RedisStore, *, wide_keys: int, rows: int, pages: int = 200
    ) -> None:
        self.world, self.store, self.spec = world, store, world.plan.spec
        self.random = np.random.default_rng(3)
        self.number, self.token = 0, store.take_token()
        self.parts: dict[str, PartVersion] = {}
        self.published: dict[str, PartVersion] = {}
        self.slices = Slices(self.spec, world.plan.layout)
        self.progress = ProgressiveValidation(self.slices.names)
        self.wide, self.ids, self.statistics = self._keys(pages, wide_keys, rows)
        self._rows = self.statistics.rows()
        self.layers = self._layers()
        self.boundaries = np.sort(
            self.random.normal(0, 2, (len(world.plan.encoder.deep_numbers), self.spec.deep.quantiles - 1)), axis=1
        ).astype(np.float32)
        pages_shown = [world.page(world.request(ITEMS)) for _ in range(PAGES)]
        self.golden = GoldenPages(world.plan, self.statistics, pages_shown, WATERMARK_MS)

    def _keys(self, pages: int, wide_keys: int, rows: int) -> tuple[U64, U64, Statistics]:
        """Keys that pages have, padded with others."""
        world, plan = self.world, self.world.plan
        statistics = Statistics(StatisticsProgram(self.spec, plan.layout))
        wide, ids = [], []
        for n in range(pages):
            words = world.page(world.request(min(100, len(world.catalogue) // 8)))
            batch = one_page(words)
            labels = self.random.integers(0, 2, len(batch.page)).astype(np.float64)
            ones, none = np.ones(len(batch.page)), np.zeros(len(batch.page), np.int64)
            statistics.learn(batch, Outcomes(labels, ones, none, ones * 1e6 + n))
            guessed = self.random.random(len(batch.page), np.float32)
            self.progress.record(guessed, labels.astype(np.float32), self.slices.members(batch))
            wide.append(plan.encoder.wide_keys(batch).keys)
            ids.append(plan.encoder.deep_input(batch).ids)
        return self._filled(wide, wide_keys), self._filled(ids, rows), statistics

    def _filled(self, found: list[U64], count: int) -> U64:
        known = np.unique(np.concatenate(found))
        more = self.random.integers(1, 2**63, max(0, count - len(known)), dtype=np.int64).astype(np.uint64)
        return np.unique(np.concatenate([self.random.permutation(known)[:count], more]))

    def _layers(self) -> list[tuple[F32, F32]]:
        encoder, deep = self.world.plan.encoder, self.spec.deep
        widths = [len(encoder.deep_lists) * deep.embedding_dim + 2 * len(encoder.deep_numbers), *deep.hidden_units, 1]
        return [
            (self.random.normal(0, i**-0.5, (i, o)).astype(np.float32), np.zeros(o, np.float32))
            for i, o in pairwise(widths)
        ]

    def contents(self, wide: U64, rows: U64, ids: U64, *, base: bool) -> dict[str, Payload]:
        """Contents of these keys: statistics' whole rows; key 0 is the row of unseen ids. A base names items, too."""
        dim, random = self.spec.deep.embedding_dim, self.random
        ids = np.concatenate([np.zeros(1, np.uint64), ids]) if base else ids
        deep: dict[str, Array] = {
            "keys": ids,
            "vectors": random.normal(0, 0.3, (len(ids), dim)).astype(np.float32),
            "boundaries": self.boundaries,
        }
        for i, (weight, bias) in enumerate(self.layers):
            deep[f"weight_{i}"], deep[f"bias_{i}"] = weight, bias
        weights = random.normal(0, 0.05, len(wide)).astype(np.float32)
        of_wide: dict[str, Array] = {"keys": wide, "weights": weights}
        if self.spec.explore.needs_uncertainty:
            of_wide["sums"] = random.integers(0, 256, len(wide), np.uint8)
        contents: dict[str, Payload] = {
            "wide": of_wide,
            "statistics": {"rows": rows},
            "deep": deep,
        }
        if base:
            contents[ITEMS_PART] = pack_names(self.world.catalogue.items[1 : 2 * GENERATION_MAX + 1])
        return contents

    def base(self) -> Manifest:
        """Publish a base."""
        whole = self.contents(self.wide, self._rows, self.ids, base=True)
        self.golden.note(whole)
        self.parts = {part: PartVersion(self._put(content)) for part, content in whole.items()}
        return self.publish()

    def delta(self, wide: int, rows: int, ids: int, *, dense: bool = True) -> None:
        """Put a delta of newly drawn keys; `dense`: with the deep part. `publish` makes it a version."""
        random = self.random
        statistics = random.choice(self._rows, min(rows, len(self._rows)), replace=False)
        statistics.view(np.float64)[:, 3] += 1.0
        if dense:
            self.layers = [(w * np.float32(0.999), b + np.float32(1e-4)) for w, b in self.layers]
        drawn = random.choice(self.ids, min(ids, len(self.ids)), replace=False)
        changed = self.contents(random.choice(self.wide, wide, replace=False), statistics, drawn, base=False)
        if not dense:
            del changed["deep"]
        self.golden.note(changed)
        for part, content in changed.items():
            current = self.parts[part]
            self.parts[part] = PartVersion(
                current.base, current.merged, [*current.deltas, self._put(content)], current.covers
            )

    def merge(self) -> None:
        """Merge the published small deltas into one, as a learner does when there are many."""
        for part, current in self.parts.items():
            named = self.published[part].payloads()[1:]
            if named:
                merged = _merged([fetch(self.store, digests) for digests in named])
                new = current.deltas[len(self.published[part].deltas) :]
                self.parts[part] = PartVersion(current.base, self._put(merged), new, self.number)

    def publish(self) -> Manifest:
        """Publish the next version, of the current parts."""
        manifest = self.cut()
        self.store.publish(manifest)
        return manifest

    def cut(self) -> Manifest:
        """The next version's manifest, with all fields that a learner's has."""
        self.number += 1
        self.published = dict(self.parts)
        return Manifest(
            model=self.store.model, version=self.number, parent=self.number - 1, fingerprint=self.spec.fingerprint(),
            spec=encode_spec(self.spec), token=self.token, offset={0: 1}, examples=self.progress.count,
            watermark_ms=WATERMARK_MS, learned_ms=WATERMARK_MS, created_ms=WATERMARK_MS,
            metrics=self.progress.metrics(), parts=dict(self.parts), ingest_ms=[WATERMARK_MS] * INSTALLS,
            golden=self.golden.golden(WATERMARK_MS), format=MANIFEST.version,
        )  # fmt: skip

    def _put(self, content: Payload) -> Digests:
        raw = pack(content)
        self.store.put_blobs(split(raw))
        return digests_of(raw)


def _merged(contents: Sequence[Payload]) -> Payload:
    """These contents merged: later rows replace earlier ones, dense arrays are the last content's."""
    name = "rows" if "rows" in contents[0] else "keys"
    keys = np.concatenate([c[name][:, 0] if name == "rows" else c[name] for c in contents])
    newest = len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]
    by_row = {n for n in contents[0] if n in ("rows", "keys", "weights", "sums", "vectors")}
    return {n: np.concatenate([c[n] for c in contents])[newest] if n in by_row else a for n, a in contents[-1].items()}
