"""Models of arms that no ranker serves: a peer, and parts that are trained apart."""

from collections.abc import Sequence

import numpy as np

from stream.events.codec import decode_examples
from stream.events.topics import EXAMPLES
from stream.log.memory_log import MemoryLog
from stream.spec.spec import Spec
from stream.tables.dtypes import F32, U64
from thalweg.backtest.peers import PeerRates, VowpalWabbit
from thalweg.experiment.served_model import ServedModel


class PeerModel:
    """Vowpal Wabbit on the log: it learns each record of `examples`, and is always live."""

    def __init__(self, spec: Spec, rates: PeerRates, examples: MemoryLog) -> None:
        self._vw = VowpalWabbit(spec, rates)
        self._reader = examples.reader(EXAMPLES.name, {0: 0})

    @property
    def offset(self) -> int:
        """The next one in `examples`."""
        return self._reader.positions()[0]

    def predict(self, pages: Sequence[U64]) -> list[F32]:
        """P(Y=1) of each page's items, float32 [n] each."""
        return [self._vw.predict(words, 0) for words in pages]

    def score(self, words: U64) -> F32:
        """P(Y=1) of a page's items as it is served, float32 [n]."""
        return self._vw.score(words)

    def learn(self) -> None:
        """Learn all records that wait."""
        while records := self._reader.poll(0.0, 1_000):
            for record in records:
                events, _ = decode_examples(record.value or b"")
                self._vw.learn(events, [0] * len(events))

    def close(self) -> None:
        """Free its memory."""
        self._vw.close()


class Ensemble:
    """Parts that are trained apart: their log-odds are averaged when they predict, and never before."""

    def __init__(self, members: Sequence[ServedModel]) -> None:
        self._members = members

    def predict(self, pages: Sequence[U64]) -> list[F32]:
        """P(Y=1) of each page's items, float32 [n] each."""
        return [_mean_odds(found) for found in zip(*(member.predict(pages) for member in self._members), strict=True)]

    def score(self, words: U64) -> F32:
        """P(Y=1) of a page's items as it is served, float32 [n], by the members' live versions."""
        return _mean_odds([member.score(words) for member in self._members])


def _mean_odds(predictions: Sequence[F32]) -> F32:
    p = np.clip(np.array(predictions, np.float64), 1e-9, 1 - 1e-9)
    mean = np.log(p / (1 - p)).mean(0)
    averaged: F32 = (1 / (1 + np.exp(-mean))).astype(np.float32)
    return averaged
