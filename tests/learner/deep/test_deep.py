"""The deep part's kernels against torch's autograd and Adagrad; quantiles; warm starts."""

from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from learner.deep.deep_model import DeepModel
from learner.deep.dense_layer import EPSILON
from learner.deep.joint_step import Inputs, Targets, learn_micro_batches
from learner.wide.ftrl import Ftrl, FtrlRates
from stream.features.encoder import DeepInput, WideKeys
from stream.features.quantiles import quantise
from stream.spec.parts import Deep as DeepSpec
from stream.tables.dtypes import F32, I64


def some_input(random: np.random.Generator, b: int, lists: int, numbers: int) -> DeepInput:
    """Lists of 0 to 4 of 10 ids, numbers with a tenth missing."""
    lengths = random.integers(0, 5, b * lists)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = random.normal(size=(b, numbers)).astype(np.float32)
    values[random.random((b, numbers)) < 0.1] = np.nan
    return DeepInput(random.integers(1, 11, offsets[-1]).astype(np.uint64), offsets, values)


def some_deep(random: np.random.Generator, spec: DeepSpec, lists: int, numbers: int) -> DeepModel:
    """A deep part that knows ids 1 to 7 of the 10, and quantiles."""
    deep = DeepModel(spec, lists, numbers, seed=int(random.integers(1 << 30)))
    for _ in range(spec.min_count):
        deep.vocabulary.count(np.arange(1, 8, dtype=np.uint64))
    if numbers:
        bounds = random.normal(size=(numbers, spec.quantiles - 1)).astype(np.float32)
        deep.boundaries = np.sort(bounds, axis=1)
    return deep


def learned(
    deep: DeepModel,
    known: DeepInput,
    labels: F32,
    weights: F32,
    earlier: F32 | None = None,
    cuts: I64 | None = None,
    time_ms: float = 1e6,
) -> tuple[F32, F32]:
    """Probabilities and wide logits of one record without wide keys, cut into micro-batches, which is then learned."""
    n, size = len(labels), deep.spec.micro_batch
    wide = Ftrl(FtrlRates(np.ones(1, np.float32), 1.0, 0.0, 0.0))
    keys = WideKeys(np.zeros(0, np.uint64), np.zeros(n + 1, np.int64))
    cuts = np.array([*range(0, n, size), n]) if cuts is None else cuts
    pages = np.arange(1, n + 1, dtype=np.uint64)
    targets = Targets(pages - np.uint64(1), labels, weights, np.full(n, time_ms), pages)
    predictions, logits = np.empty((2, n), np.float32)
    given = Inputs(keys.keys, keys.offsets, known.ids, known.offsets, known.numbers)
    earlier = np.zeros(n, np.float32) if earlier is None else earlier
    learn_micro_batches(
        wide.prepare(keys.keys, 0), deep.prepare(known.ids), given, targets, cuts, earlier, predictions, logits
    )
    return predictions, logits


class Oracle:
    """The same network in plain torch: parameters copied, autograd, torch.optim.Adagrad."""

    def __init__(self, deep: DeepModel) -> None:
        self.deep, vocabulary = deep, deep.vocabulary
        self.row_of = {int(r[0]): int(r[1]) for r in vocabulary.table.rows()}
        self.vectors = torch.tensor(vocabulary.vectors.copy(), requires_grad=True)
        self.layers = [
            (torch.tensor(w, requires_grad=True), torch.tensor(b, requires_grad=True)) for w, b in deep.layers()
        ]
        parameters = [self.vectors, *(p for layer in self.layers for p in layer)]
        spec = deep.spec
        rate = spec.learning_rate if spec.embedding_rate is None else spec.embedding_rate
        groups = [{"params": parameters[:1], "lr": rate}, {"params": parameters[1:], "lr": spec.learning_rate}]
        self.optimiser = torch.optim.Adagrad(
            groups, initial_accumulator_value=spec.initial_accumulator, eps=float(EPSILON)
        )

    def logits(self, known: DeepInput) -> torch.Tensor:
        """Example by example, list by list."""
        deep, rows = self.deep, []
        numbers = torch.from_numpy(quantise(known.numbers, deep.boundaries))
        for b in range(len(known.numbers)):
            parts = []
            for f in range(deep.lists):
                first, last = known.offsets[b * deep.lists + f : b * deep.lists + f + 2]
                found = [self.row_of.get(int(i), 0) for i in known.ids[first:last]]
                pooled = self.vectors[found].sum(0) / max(1, len(found)) ** 0.5
                parts.append(pooled if found else torch.zeros(self.vectors.shape[1]))
            rows.append(torch.cat([*parts, numbers[b]]))
        h = torch.stack(rows)
        for weight, bias in self.layers[:-1]:
            h = torch.relu(h @ weight + bias)
        return (h @ self.layers[-1][0] + self.layers[-1][1])[:, 0]

    def step(self, known: DeepInput, labels: F32, weights: F32) -> F32:
        """Logits before a step on Σ weight · log loss / micro-batch."""
        logits = self.logits(known)
        loss = functional.binary_cross_entropy_with_logits(
            logits, torch.from_numpy(labels), torch.from_numpy(weights), reduction="sum"
        )
        self.optimiser.zero_grad()
        (loss / self.deep.spec.micro_batch).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        found: F32 = logits.detach().numpy()
        return found

    def assert_near(self, deep: DeepModel) -> None:
        """Every parameter of `deep` is the oracle's."""
        self._near(deep.vocabulary.vectors[: len(self.vectors)], self.vectors)
        for ours, theirs in zip(deep.layers(), self.layers, strict=True):
            for mine, its in zip(ours, theirs, strict=True):
                self._near(mine, its)

    def follow(self, deep: DeepModel) -> None:
        """Continue from the state of `deep`: where a gradient is tiny, AdaGrad makes whole steps of its rounding, and
        the next step would compare two trajectories."""
        rows, dim = len(self.vectors), deep.spec.embedding_dim
        pairs = [(self.vectors, deep.vocabulary.vectors[:rows], deep.vocabulary.embeddings[:rows, dim:])]
        for layer, values, sums in zip(
            self.layers, deep.tower.layers(), deep.tower.layers(deep.tower.squares), strict=True
        ):
            pairs += zip(layer, values, sums, strict=True)
        with torch.no_grad():
            for parameter, value, total in pairs:
                parameter.copy_(torch.from_numpy(value.copy()))
                self.optimiser.state[parameter]["sum"].copy_(torch.from_numpy(total.copy()))

    def _near(self, ours: F32, theirs: torch.Tensor) -> None:
        """Within 2e-5, and within what rounding a gradient by 1e-8 makes of a step: AdaGrad divides by √Σg²."""
        root = self.optimiser.state[theirs]["sum"].sqrt().numpy() + EPSILON
        bound = 2e-5 + self.deep.spec.learning_rate * 1e-8 / root
        found = theirs.detach().numpy()
        wrong = np.argwhere(~(np.abs(ours - found) <= bound))
        assert not len(wrong), f"at {wrong[:3].tolist()}: {ours[tuple(wrong[0])]}, not {found[tuple(wrong[0])]}"


@dataclass
class Case:
    """A network and micro-batches for it."""

    deep: DeepModel
    batches: list[tuple[DeepInput, F32, F32]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any widths, any number of lists and numbers, none of some; micro-batches that are full or not."""
    random = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    lists, numbers = draw(st.sampled_from([(0, 3), (1, 0), (2, 1), (3, 4), (5, 7)]))
    micro_batch = draw(st.integers(1, 9))
    spec = DeepSpec(
        embedding_dim=draw(st.integers(1, 9)),
        min_count=draw(st.integers(1, 3)),
        max_rows=1_000,
        quantiles=draw(st.integers(2, 6)),
        hidden_units=draw(st.lists(st.integers(1, 40), max_size=3)),
        micro_batch=micro_batch,
        learning_rate=draw(st.sampled_from([0.01, 0.1])),
        initial_accumulator=draw(st.sampled_from([0.0, 0.1])),
        embedding_rate=draw(st.sampled_from([None, 0.003])),
    )
    deep = some_deep(random, spec, lists, numbers)
    batches = []
    for _ in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, micro_batch))
        labels = random.integers(0, 2, size).astype(np.float32)
        weights = random.uniform(0.2, 2, size).astype(np.float32)
        batches.append((some_input(random, size, lists, numbers), labels, weights))
    return Case(deep, batches)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_steps_equal_autograd_with_adagrad(case: Case) -> None:
    """Predictions, dense parameters and embedding rows are autograd's and torch.optim.Adagrad's, step after step."""
    deep = case.deep
    oracle = Oracle(deep)
    for known, labels, weights in case.batches:
        before = deep.score(known)
        predictions, _ = learned(deep, known, labels, weights)
        logits = oracle.step(known, labels, weights)
        np.testing.assert_allclose(before, logits, atol=1e-5)
        np.testing.assert_allclose(predictions, 1 / (1 + np.exp(-logits)), atol=1e-5)
        oracle.row_of.update({int(r[0]): int(r[1]) for r in deep.vocabulary.table.rows()})
        fresh = deep.vocabulary.vectors[len(oracle.vectors) :]
        if len(fresh):  # ids that got their row just now; their gradients start with it
            grown = torch.cat([oracle.vectors.detach(), torch.from_numpy(fresh.copy())]).requires_grad_()
            sums = torch.from_numpy(
                deep.vocabulary.embeddings[: deep.vocabulary.rows, deep.spec.embedding_dim :].copy()
            )
            expected = np.float32(deep.spec.initial_accumulator)
            np.testing.assert_array_equal(sums[len(oracle.vectors) :].numpy(), expected)
            oracle.optimiser.param_groups[0]["params"][0] = grown
            oracle.optimiser.state[grown] = {**oracle.optimiser.state.pop(oracle.vectors), "sum": sums}
            oracle.vectors = grown
        oracle.assert_near(deep)
        oracle.follow(deep)


def test_one_call_learns_as_many_calls_do() -> None:
    """Bits don't depend on how many micro-batches a call of the kernel learns, nor on what was learned elsewhere."""
    spec = DeepSpec(embedding_dim=5, min_count=2, max_rows=1_000, hidden_units=[20, 9], micro_batch=4)
    for seed in range(5):
        whole, parts = (some_deep(np.random.default_rng(seed), spec, 3, 4) for _ in range(2))
        random = np.random.default_rng(99)
        known = some_input(random, 12, 3, 4)
        labels, weights = random.integers(0, 2, 12).astype(np.float32), np.ones(12, np.float32)
        learned(whole, known, labels, weights)
        for first in (0, 4, 8):
            learned(parts, known.part(first, first + 4), labels[first : first + 4], weights[first : first + 4])
        assert whole.tower.flat.tobytes() == parts.tower.flat.tobytes()
        assert whole.vocabulary.embeddings[:50].tobytes() == parts.vocabulary.embeddings[:50].tobytes()


def test_an_example_that_isnt_finite_teaches_nothing() -> None:
    """An embedding that is NaN stays alone: all else is as if its example hadn't come, to the bit."""
    random = np.random.default_rng(5)
    spec = DeepSpec(embedding_dim=3, min_count=1, hidden_units=[5, 4], micro_batch=4, learning_rate=0.1)
    ids, offsets = np.array([1, 2, 7, 3, 4], np.uint64), np.arange(6)
    known = DeepInput(ids, offsets, random.normal(size=(5, 2)).astype(np.float32))
    labels, weights = np.array([1, 0, 1, 1, 0], np.float32), np.ones(5, np.float32)
    others = np.array([0, 1, 3, 4])
    states = []
    for which in (np.arange(5), others):
        deep = some_deep(np.random.default_rng(6), spec, 1, 2)
        row = deep.vocabulary.rows_of(np.array([7], np.uint64))[0]
        deep.vocabulary.embeddings[row, 1] = np.nan
        part = DeepInput(ids[which], np.arange(len(which) + 1), known.numbers[which])
        cuts = np.array([0, 4, 5] if len(which) == 5 else [0, 3, 4])  # the same micro-batches
        predictions, _ = learned(deep, part, labels[which], weights[which], cuts=cuts)
        assert np.isnan(predictions).tolist() == [one == 2 for one in which]
        embeddings = np.delete(deep.vocabulary.embeddings[: deep.vocabulary.rows], row, axis=0)
        states.append([deep.tower.flat.tobytes(), deep.tower.squares.tobytes(), embeddings.tobytes()])
        assert np.isfinite(embeddings).all()
        assert deep.tower.finite()
    assert states[0] == states[1]


def test_sums_of_squares_stay_finite() -> None:
    """A gradient whose square is no float any more moves neither the weight nor its sum."""
    spec = DeepSpec(embedding_dim=3, min_count=1, hidden_units=[5], micro_batch=1)
    deep = some_deep(np.random.default_rng(6), spec, 1, 1)
    deep.vocabulary.embeddings[:, :3] = 1e30
    part = DeepInput(np.array([1, 1], np.uint64), np.arange(3), np.zeros((2, 1), np.float32))
    learned(deep, part, np.array([0, 1], np.float32), np.full(2, 1e6, np.float32))  # one of them is predicted wrongly
    assert np.isfinite(deep.tower.squares).all()
    assert deep.tower.finite()
    assert np.isfinite(deep.vocabulary.embeddings[: deep.vocabulary.rows]).all()


def test_the_padding_stays_zero() -> None:
    """Widths are padded for the kernels: what lies between the layers' own weights never moves."""
    spec = DeepSpec(embedding_dim=3, max_rows=1_000, hidden_units=[5, 7], micro_batch=3)
    deep = some_deep(np.random.default_rng(1), spec, 2, 1)
    own = sum(weight.size + bias.size for weight, bias in deep.layers())
    for seed in range(20):
        known = some_input(np.random.default_rng(seed), 3, 2, 1)
        learned(deep, known, np.ones(3, np.float32), np.ones(3, np.float32))
    state = deep.tower.state
    for weight, bias in deep.tower.layers():
        weight[:], bias[:] = 1.0, 1.0
    assert np.count_nonzero(state.weights) == own < len(state.weights)
    assert np.count_nonzero(state.squares) <= own


def faded(deep: DeepModel, factor: float) -> None:
    """What AdaGrad's sums have beyond their start fades, one by one."""
    start = np.float32(deep.spec.initial_accumulator)
    for sums in (deep.tower.state.squares, deep.vocabulary.sums):
        sums[:] = start + (sums - start) * np.float32(factor)


def test_sums_fade_by_event_time() -> None:
    """With a half-life the deep part learns as one without, all of whose sums are faded before each record; what they
    start at doesn't fade, and gaps count as one half-life. Over sixty half-lives sums are scaled down in between."""
    spec = DeepSpec(embedding_dim=5, min_count=1, max_rows=1_000, hidden_units=[20, 9], micro_batch=4,
                    initial_accumulator=0.1, embedding_rate=0.01)  # fmt: skip
    forgetful = msgspec.structs.replace(spec, half_life="1m")
    ours, plain = (some_deep(np.random.default_rng(3), one, 3, 4) for one in (forgetful, spec))
    random, time_ms = np.random.default_rng(6), 1e6
    assert ours.vocabulary.initial == 0, "its start is added where a sum is read"
    for n in range(80):
        known, labels = some_input(random, 4, 3, 4), random.integers(0, 2, 4).astype(np.float32)
        gap_ms = float(random.choice([0, 20_000, 60_000, 500_000]))
        time_ms += gap_ms
        ours.begin_record()
        learned(ours, known, labels, labels + 1, time_ms=time_ms)
        faded(plain, 0.5 ** (min(gap_ms, 60_000) / 60_000) if n else 1.0)
        learned(plain, known, labels, labels + 1)
        np.testing.assert_allclose(ours.tower.flat, plain.tower.flat, atol=1e-4)
        np.testing.assert_allclose(ours.vocabulary.vectors, plain.vocabulary.vectors, atol=1e-4)
    assert 0 < ours.forgetting.clock[1] < 48 * 60_000
