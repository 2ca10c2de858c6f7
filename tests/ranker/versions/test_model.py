"""What a version scores, and that building it from its predecessor changes nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from ranker.versions.model import Version, score_features
from ranker.versions.version_loader import VersionLoader, load_version
from stream.features.encoder import DeepInput, one_page
from stream.features.page_kernels import open_page
from stream.features.serve_as import as_served
from stream.runtime.errors import BadEvent
from stream.snapshots.memory_store import MemoryStore
from tests.support.random_models import ToyModel, some_spec

SEEDS = st.integers(0, 2**32 - 1)
PARTS = st.sampled_from([["wide", "deep"], ["wide"], ["deep"]])
STEPS = st.lists(st.sampled_from(["base", "delta", "delta", "merged"]), min_size=1, max_size=8)


def toy(seed: int, parts: list[str]) -> tuple[ToyModel, MemoryStore]:
    """A random model and a store for it."""
    return ToyModel(some_spec(np.random.default_rng(seed), parts), seed), MemoryStore("m")


@given(SEEDS, PARTS, STEPS)
@how(max_examples=40)
def test_a_version_scores_as_the_formula_says(seed: int, parts: list[str], steps: list[str]) -> None:
    """Over random specs and chains of contents, probabilities equal the formula in float64 within 1e-5."""
    model, store = toy(seed, parts)
    loader, version = VersionLoader(store, "m"), None
    for step in steps:
        model.learn(2)
        model.publish(store, step)
        version = loader.load(model.number, version)
        page = model.page(9)
        assert np.abs(score_features(version, page.tobytes(), 9) - model.scores(page)).max() <= 1e-5


@given(SEEDS, STEPS)
@how(max_examples=25)
def test_statistics_of_a_version_are_the_learners(seed: int, steps: list[str]) -> None:
    """A page filled from a version's layers has the very words that the publisher's own table gives."""
    model, store = toy(seed, ["wide"])
    loader, version = VersionLoader(store, "m"), None
    for step in steps:
        model.learn(2)
        model.publish(store, step)
        version = loader.load(model.number, version)
        page = model.page(9, time_ms=5_000_000)
        again = page.copy()
        version.fill(again, 5_000_000)
        assert (again == page).all()


@given(SEEDS, PARTS, STEPS)
@how(max_examples=25)
def test_a_chain_of_builds_equals_one_from_nothing(seed: int, parts: list[str], steps: list[str]) -> None:
    """A version built from its predecessor scores bit for bit like one loaded whole; older ones score as they did."""
    model, store = toy(seed, parts)
    loader, version = VersionLoader(store, "m"), None
    before: list[tuple[Version, bytes, list[float]]] = []
    for step in steps:
        model.learn(2)
        model.publish(store, step)
        version = loader.load(model.number, version)
        raw = model.page(6).tobytes()
        scores = score_features(version, raw, 6).tolist()
        assert scores == score_features(load_version(store, "m", model.number), raw, 6).tolist()
        before.append((version, raw, scores))
    for old, raw, scores in before:
        assert score_features(old, raw, 6).tolist() == scores


def test_features_of_another_layout_are_refused() -> None:
    """`score_features` never scores bytes that were made for another spec, or cut off."""
    model, store = toy(1, ["wide"])
    model.publish(store)
    version = load_version(store, "m", 1)
    raw = model.page(3).tobytes()
    other = (int.from_bytes(raw[:8], "little") ^ 1).to_bytes(8, "little") + raw[8:]
    for bad in (other, raw[:-8], b""):
        with pytest.raises(BadEvent):
            score_features(version, bad, 3)


@given(SEEDS, PARTS)
@how(max_examples=40)
def test_logits_are_torchs(seed: int, parts: list[str]) -> None:
    """Over random specs, logits equal a network of torch's modules with the same parameters, within 1e-5."""
    model, store = toy(seed, parts)
    model.publish(store, "base")
    model.learn(2)
    model.publish(store)
    page = model.page(9)
    expected = torch.zeros(9, dtype=torch.float64)
    served = one_page(as_served(model.layout, page))
    keys = model.encoder.wide_keys(served)
    for i in range(9):
        expected[i] = sum(model.wide.get(key, 0.0) for key in keys.keys[keys.offsets[i] : keys.offsets[i + 1]].tolist())
    if "deep" in parts:
        expected += deep_by_torch(model, model.encoder.deep_input(served, serving=True))
    logits = load_version(store, "m", 2).logits(page.copy())
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-5, atol=1e-5)


def deep_by_torch(model: ToyModel, given: DeepInput) -> torch.Tensor:
    """EmbeddingBag, bucketize, Linear and ReLU in float64. [n]."""
    rows = {key: row for row, key in enumerate(model.vectors)}
    table = torch.tensor(np.array(list(model.vectors.values())), dtype=torch.float64)
    ids = torch.tensor([rows.get(int(i), rows[0]) for i in given.ids], dtype=torch.int64)
    n, counts = len(given.numbers), torch.tensor(np.diff(given.offsets)).clamp(min=1)
    inputs = [torch.zeros(n, 0, dtype=torch.float64)]
    if len(given.offsets) > 1:
        bags = torch.nn.functional.embedding_bag(ids, table, torch.tensor(given.offsets[:-1]), mode="sum")
        inputs.append((bags / counts.sqrt()[:, None]).reshape(n, -1))
    numbers, missing = torch.tensor(given.numbers), torch.tensor(np.isnan(given.numbers))
    for d in range(numbers.shape[1]):
        edges = torch.tensor(model.boundaries[d] if model.boundaries.size else np.zeros(0, np.float32))
        value = torch.bucketize(numbers[:, d].contiguous(), edges) / len(edges) if len(edges) else torch.full((n,), 0.5)
        inputs.append(torch.where(missing[:, d], 0.0, value.double())[:, None])
    x = torch.cat([*inputs, missing.double()], 1)
    for i, (weight, bias) in enumerate(model.layers):
        linear = torch.nn.Linear(weight.shape[0], weight.shape[1], dtype=torch.float64)
        linear.load_state_dict(
            {"weight": torch.tensor(weight.T.astype(np.float64)), "bias": torch.tensor(bias).double()}
        )
        with torch.no_grad():
            x = linear(x)
        x = torch.relu(x) if i < len(model.layers) - 1 else x
    return x[:, 0]


def test_a_page_has_one_user() -> None:
    """A logged page whose statistics of the user alone differ by item isn't scored: no ranker makes one."""
    model, store = toy(3, ["wide", "deep"])
    model.publish(store)
    version = load_version(store, "m", 1)
    alone = model.layout.statistics.index("user_seen")
    page = model.page(4)
    score_features(version, page.tobytes(), 4)
    statistics = page.view(np.float32)[open_page(page, version.plan.layout.size_array).at.statistics :]
    statistics[len(model.layout.statistics) + alone] += 1
    with pytest.raises(BadEvent, match="one user"):
        score_features(version, page.tobytes(), 4)
