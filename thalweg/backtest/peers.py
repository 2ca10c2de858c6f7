"""The peers of a backtest: Vowpal Wabbit and River, with the features that our parts have.

Both see an example as a list of whole numbers, each a feature of value 1: the wide keys, the deep part's categories
(but for those that are a wide feature anyway), and for every number that the deep part reads the quantile that it falls
into ("bucket"; missing is one of its own). Boundaries are those that the deep part would have: from the same sample,
frozen at the same examples. Both weigh an example that takes back an earlier label such that its gradient is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import numpy as np

from stream.events.types import CORRECTIONS, Examples
from stream.features.encoder import Batch, Encoder, one_page
from stream.features.page_features import Layout
from stream.spec.spec import Spec
from stream.tables.dtypes import F32, U64
from thalweg.backtest.entrants import PeerEntrant

BITS: Final = 26  # of a feature's number: of 2,000,000 live features one in 34 shares its weight with another
FIRST_FREEZE: Final = 64
SAMPLE: Final = 16_384
TEXTS_MAX: Final = 1_000_000  # some 130 MB
MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
P_MIN: Final = 1e-6


@dataclass(frozen=True)
class PeerRates:
    """Rates of Vowpal Wabbit's FTRL-Proximal and River's gradient descent, which beat River's FTRL-Proximal.

    Defaults: the best draws on MovieLens' first 30,000 pages (`benchmarks/tuned.json`), to two digits.
    """

    alpha: float = 0.11
    beta: float = 2.3
    l1: float = 0.0
    l2: float = 5.0
    river: float = 0.016


class Buckets:
    """Quantiles of the deep part's numbers, frozen as it freezes them: at 64 examples, then at doublings."""

    def __init__(self, spec: Spec, numbers: int) -> None:
        self._quantiles = spec.deep.quantiles
        self._sample: F32 = np.full((SAMPLE, numbers), np.nan, np.float32)
        self._is_sampled = np.zeros(SAMPLE, np.bool_)
        self._learned = self._freezes_at = 0
        self.boundaries: list[F32] = [np.zeros(0, np.float32)] * numbers

    def of(self, numbers: F32) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """The bucket of each number [B, D]: from 1; 0 for a missing one."""
        found = np.empty(numbers.shape, np.int64)
        for d, boundaries in enumerate(self.boundaries):
            found[:, d] = 1 + np.searchsorted(boundaries, numbers[:, d])
        found[np.isnan(numbers)] = 0
        return found

    def learn(self, ids: Sequence[int], numbers: F32) -> None:
        """Add learned examples to the sample; freeze when the deep part does."""
        first = 0
        while first < len(ids):
            last = min(len(ids), first + self._until_freeze())
            slots = np.array([example_id % SAMPLE for example_id in ids[first:last]])
            self._sample[slots], self._is_sampled[slots] = numbers[first:last], True
            self._learned += last - first
            if self._learned == self._freezes_at:
                self._freeze()
            first = last

    def _until_freeze(self) -> int:
        """Examples until the next freeze."""
        self._freezes_at = max(FIRST_FREEZE, 1 << self._learned.bit_length())
        return self._freezes_at - self._learned

    def _freeze(self) -> None:
        shares = np.arange(1, self._quantiles) / self._quantiles
        for d, column in enumerate(self._sample[self._is_sampled].T):
            known = column[~np.isnan(column)]
            if len(known):
                self.boundaries[d] = np.quantile(known, shares).astype(np.float32)


class PeerFeatures:
    """Examples as whole numbers below 2^26: hashes of our wide keys, of the deep part's ids, of (number, bucket)."""

    def __init__(self, spec: Spec) -> None:
        alone = [cross.of[0] for cross in spec.crosses() if len(cross.of) == 1]
        deep = [name for name in spec.deep_features() if name not in alone]
        whole = msgspec.structs.replace(
            spec, parts=["wide", "deep"], deep=msgspec.structs.replace(spec.deep, features=deep)
        )
        self._encoder = Encoder(whole, Layout(whole))
        numbers, self._lists = len(self._encoder.deep_numbers), len(self._encoder.deep_lists)
        self._salts = np.arange(1, numbers + 1, dtype=np.uint64) << np.uint64(32)
        self.buckets = Buckets(spec, numbers)

    def of(self, batch: Batch, *, serving: bool = False) -> tuple[list[list[int]], F32]:
        """The features of each example, and its numbers [B, D]. The bias isn't among them: peers have their own.

        With `serving` the position is its `serve_as`.
        """
        keys = self._encoder.wide_keys(batch)
        deep = self._encoder.deep_input(batch, serving=serving)
        shift = np.uint64(64 - BITS)
        wide = (keys.keys >> np.uint64(8)) & np.uint64((1 << BITS) - 1)  # the low byte says which cross it is
        buckets = ((self._salts + self.buckets.of(deep.numbers).astype(np.uint64)) * MULTIPLIER) >> shift
        ends, lists = keys.offsets.tolist(), self._lists
        deep_ends = deep.offsets[::lists].tolist() if lists else [0] * (len(batch.page) + 1)
        wide_ids, deep_ids, bucket_ids = wide.tolist(), (deep.ids >> shift).tolist(), buckets.tolist()
        features = [
            wide_ids[ends[b] : ends[b + 1] - 1]  # the last key is the bias
            + deep_ids[deep_ends[b] : deep_ends[b + 1]]  # a column's ids have a seed of their own
            + bucket_ids[b]
            for b in range(len(batch.page))
        ]
        return features, deep.numbers


class Texts(dict[int, str]):
    """Features as texts: most come again and again. Bounded, since a store has millions that come once."""

    def __missing__(self, feature: int) -> str:
        if len(self) == TEXTS_MAX:
            self.clear()
        text = self[feature] = str(feature)
        return text


def _correction(weight: float, label: int, p: float) -> float:
    """The weight of an example that takes back an earlier label, when it is predicted as p: its gradient is ±1."""
    return weight / max(1.0 - p if label else p, P_MIN)


def _batch(examples: Examples) -> Batch:
    """The examples of one page."""
    words: U64 = np.frombuffer(examples.page.features, np.uint64)
    positions = np.array(examples.positions, np.int64)
    return Batch(words, np.zeros(1, np.int64), np.zeros(len(positions), np.int64), positions)


class VowpalWabbit(PeerEntrant):
    """`vw --ftrl` in this process. Its input can be dumped: lines without a label or a weight are to predict.

    A line's tag is the row of its example, in the order of pages. `vw` doesn't learn from a line without a label or
    weight, so `vw -d FILE` with `arguments()` and `-p PREDICTIONS` repeats all this; the first prediction of each tag
    is the one at page time.
    """

    name = "vw"

    def __init__(self, spec: Spec, rates: PeerRates, dump: Path | None = None) -> None:
        from vowpalwabbit import Workspace  # an optional dependency, slow to import

        self.features = PeerFeatures(spec)
        self._vw: Any = Workspace(f"{arguments(rates)} --quiet")
        self._base = spec.label.base_log_odds  # which it adds to an example's logit
        self._dump: IO[str] | None = dump.open("w") if dump else None
        self._text = Texts().__getitem__

    def predict(self, words: U64, row: int) -> F32:
        """By the weights as they are now."""
        features, _ = self.features.of(one_page(words))
        lines = [self._to_predict(f"'{row + i}", one) for i, one in enumerate(features)]
        self._write(lines)
        return np.array([self._vw.predict(line) for line in lines], np.float32)

    def score(self, words: U64) -> F32:
        """P(Y=1) of a page's items as a ranker would score it, float32 [n]. `words`: as it is served."""
        features, _ = self.features.of(one_page(words), serving=True)
        return np.array([self._vw.predict(self._to_predict("", one)) for one in features], np.float32)

    def learn(self, record: Sequence[Examples], rows: Sequence[int]) -> None:
        """One example at a time; its labels are 1 and -1."""
        for examples, row in zip(record, rows, strict=True):
            features, numbers = self.features.of(_batch(examples))
            for one, label, weight, position, reason in zip(
                features, examples.labels, examples.weights, examples.positions, examples.reasons, strict=True
            ):
                tag = f"'{row + position}"
                if reason in CORRECTIONS:
                    weight = _correction(weight, label, self._vw.predict(self._to_predict(tag, one)))
                line = self._line(f"{1 if label else -1} {weight:.9g}", tag, one)
                self._write([line])
                self._vw.learn(line)
            self.features.buckets.learn(examples.ids, numbers)

    def _to_predict(self, tag: str, features: Sequence[int]) -> str:
        """An example to predict. One with a base needs a label; without weight it isn't learned."""
        return self._line("1 0" if self._base else "", tag, features)

    def _line(self, label: str, tag: str, features: Sequence[int]) -> str:
        base = f" {self._base:.9g} " if self._base else " "
        return f"{label}{base}{tag} | {' '.join(map(self._text, features))}".lstrip()

    def _write(self, lines: Sequence[str]) -> None:
        if self._dump:
            self._dump.writelines(f"{line}\n" for line in lines)

    def close(self) -> None:
        """Finish, and close the dump."""
        self._vw.finish()
        if self._dump:
            self._dump.close()


def arguments(rates: PeerRates) -> str:
    """Vowpal Wabbit's command line."""
    return (
        f"--ftrl --loss_function logistic --link logistic -b {BITS} --ftrl_alpha {rates.alpha:g} "
        f"--ftrl_beta {rates.beta:g} --l1 {rates.l1:g} --l2 {rates.l2:g}"
    )


class River(PeerEntrant):
    """River's logistic regression, by gradient descent at a constant rate."""

    name = "river"

    def __init__(self, spec: Spec, rates: PeerRates) -> None:
        from river import linear_model, optim

        self.features = PeerFeatures(spec)
        self._model: Any = linear_model.LogisticRegression(
            optim.SGD(rates.river), intercept_init=spec.label.base_log_odds, intercept_lr=rates.river
        )

    def predict(self, words: U64, row: int) -> F32:
        """By the weights as they are now."""
        features, _ = self.features.of(one_page(words))
        return np.array([self._p(dict.fromkeys(one, 1.0)) for one in features], np.float32)

    def score(self, words: U64) -> F32:
        """P(Y=1) of a page's items as a ranker would score it, float32 [n]. `words`: as it is served."""
        features, _ = self.features.of(one_page(words), serving=True)
        return np.array([self._p(dict.fromkeys(one, 1.0)) for one in features], np.float32)

    def _p(self, features: dict[int, float]) -> float:
        return float(self._model.predict_proba_one(features)[True])

    def learn(self, record: Sequence[Examples], rows: Sequence[int]) -> None:
        """One example at a time."""
        for examples in record:
            features, numbers = self.features.of(_batch(examples))
            columns = features, examples.labels, examples.weights, examples.reasons
            for one, label, weight, reason in zip(*columns, strict=True):
                x = dict.fromkeys(one, 1.0)
                if reason in CORRECTIONS:
                    weight = _correction(weight, label, self._p(x))
                self._model.learn_one(x, bool(label), w=weight)
            self.features.buckets.learn(examples.ids, numbers)
