"""What rankers retrieve by is what learners published: lists and vectors through snapshots, by bases and deltas."""

from typing import Any

import msgspec
import numpy as np

from learner.publishing.version_builder import VersionBuilder
from learner.retrieval.item_retrieval import ItemRetrieval
from learner.training.model import Model
from ranker.kernels.retrieval import FADE, LAST, PRIOR, together_with, user_vector
from ranker.versions.learned_items import LearnedItems
from ranker.versions.model import Version
from ranker.versions.version_loader import VersionLoader, load_version
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.retrieval_rows import RETRIEVAL_PART
from stream.spec.retrieval import Retrieval
from stream.tables.dtypes import U64
from tests.support.changing_world import RETRIEVAL, mixed_log
from tests.support.learned_models import served_versions
from tests.support.learner_world import small_spec

SPEC = small_spec(**{"[label]": f'{RETRIEVAL}\n[label]\norganic = "examples"'})


def small_model() -> Model:
    """A model that evicts items: its bound is smaller than a spec may set."""
    model, retrieval = Model(SPEC), SPEC.retrieval
    kept = msgspec.structs.replace(retrieval.kept, max_items=12)
    model.retrieval = ItemRetrieval(msgspec.structs.replace(retrieval, kept=kept), model.layout)
    return model


class Published:
    """What goes out of a learner, item by item, as payloads say it."""

    def __init__(self, kept: ItemRetrieval) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.evicted = 0
        self._payload = kept.payload
        kept.payload = self._noted  # type: ignore[method-assign]

    def _noted(self, keys: U64 | None) -> dict[str, Any]:
        arrays = self._payload(keys)
        if keys is None:
            self.rows.clear()
        columns = {name: array for name, array in arrays.items() if name != "dead"}
        for n, key in enumerate(columns["keys"].tolist()):
            self.rows[key] = {name: array[n].copy() for name, array in columns.items()}
        for key in arrays.get("dead", np.zeros(0)).tolist():
            self.evicted += self.rows.pop(key, None) is not None
        return arrays

    def together(self, items: list[int]) -> dict[int, float]:
        """By the definition: Σ FADE^k · weight / (installs + PRIOR) over the lists of the last items."""
        scores: dict[int, float] = {}
        for k, item in enumerate(items[:LAST]):
            row = self.rows.get(item)
            for other, weight in zip(row["listed"].tolist(), row["weights"].tolist(), strict=True) if row else ():
                if other:
                    share = float(FADE) ** k * weight / (float(row["installs"]) + float(PRIOR))  # type: ignore[index]
                    scores[other] = scores.get(other, 0.0) + share
        return scores

    def user(self, items: list[int]) -> Any:
        """By the definition: the mean of the last items' input vectors, by FADE^k."""
        shares = [(item, float(FADE) ** k) for k, item in enumerate(items[:LAST]) if item in self.rows]
        total = sum(share for _, share in shares)
        return sum(share / total * self.rows[item]["inputs"] for item, share in shares) if shares else []


def check(learned: LearnedItems, published: Published, random: np.random.Generator) -> None:
    """The ranker's rows are those that were published; what it computes of them is as defined."""
    vectors = learned.view.vectors
    found = {int(key): n for n, key in enumerate(vectors.ids)}
    assert found.keys() == published.rows.keys()
    for key, n in found.items():
        assert vectors.outputs[:, n].tobytes() == published.rows[key]["outputs"].tobytes()
        assert vectors.biases[n] == published.rows[key]["biases"]
    known = np.array([*published.rows, 7], np.uint64)  # 7 is no item's
    for _ in range(5):
        items = random.choice(known, random.integers(0, 30))
        ids, scores = together_with(learned.view.rows, items)
        expected = published.together(items.tolist())
        assert dict(zip(ids.tolist(), scores.tolist(), strict=True)).keys() == expected.keys()
        np.testing.assert_allclose(scores, [expected[one] for one in ids.tolist()], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(user_vector(learned.view.rows, items), published.user(items.tolist()), atol=1e-5)


def test_a_ranker_has_what_was_published() -> None:
    """Version after version by deltas, with items that are evicted; and from scratch at the end."""
    model, random, versions = small_model(), np.random.default_rng(0), 0
    assert model.retrieval is not None
    published = Published(model.retrieval)
    for _, version in served_versions(model, mixed_log(SPEC, 330)):  # type: ignore[arg-type]  # organic installs, too
        assert version.learned_items is not None
        check(version.learned_items, published, random)
        assert version.retrieval_version == version.number
        versions += 1
    assert published.evicted > 5
    assert versions > 10


def test_the_part_is_optional() -> None:
    """A version without it, as earlier builds publish, is served: it has nothing to retrieve by. So is one whose spec
    doesn't retrieve by it."""
    for retrieval, has_part in ((SPEC.retrieval, False), (Retrieval(), True)):
        model, store = Model(SPEC), MemoryStore(SPEC.name)
        for offset, record in enumerate(mixed_log(SPEC, 20)):
            model.learn(record, offset)
        spec = msgspec.structs.replace(SPEC, retrieval=retrieval)
        assert spec.fingerprint() == SPEC.fingerprint()
        model.spec = spec
        cut = VersionBuilder(model).build(1, 0, store.take_token(), 20, 0, {}, deep=True)
        parts = {name: part for name, part in cut.manifest.parts.items() if has_part or name != RETRIEVAL_PART}
        store.put_blobs(cut.blobs)
        store.publish(msgspec.structs.replace(cut.manifest, parts=parts))
        assert load_version(store, SPEC.name, 1).learned_items is None


def test_what_did_not_change_is_shared() -> None:
    """A version with no new row of the part has the same rows as the one before: nothing is computed again."""
    model, store = Model(SPEC), MemoryStore(SPEC.name)
    for offset, record in enumerate(mixed_log(SPEC, 60)):
        model.learn(record, offset)
    builder, loader, token = VersionBuilder(model), VersionLoader(store, SPEC.name), store.take_token()
    versions: list[Version] = []
    for number in (1, 2):
        cut = builder.build(number, number - 1, token, 60, 0, {}, deep=number == 1)
        store.put_blobs(cut.blobs)
        store.publish(cut.manifest)
        versions.append(loader.load(number, versions[-1] if versions else None))
    first, second = (version.learned_items for version in versions)
    assert first is not None
    assert second is not None
    assert second.view is first.view
    assert versions[1].retrieval_version == 1
