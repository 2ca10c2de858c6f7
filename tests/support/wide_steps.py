"""The wide part alone: a batch is predicted and learned in one call."""

import itertools

import numpy as np

from learner.wide.ftrl import Ftrl, WideExamples, WideOutput, learn_wide_examples
from stream.features.encoder import WideKeys
from stream.tables.dtypes import F32, U64

_page_numbers = itertools.count(1)


def predict_then_learn(
    ftrl: Ftrl, keys: WideKeys, deep_logits: F32, labels: F32, weights: F32, *, time_ms: int = 0,
    earlier: F32 | None = None, pages: U64 | None = None,
) -> WideOutput:  # fmt: skip
    """Each example is predicted after the one before was learned. Wide logits and gradients, float32 [B].

    Without `pages` each is on a page of its own.
    """
    if pages is None:
        pages = np.arange(len(labels), dtype=np.uint64) + np.uint64(next(_page_numbers) << 20)
    state, examples = ftrl.prepare(keys.keys, time_ms), WideExamples(deep_logits, labels, weights, pages)
    output = WideOutput(np.empty(len(labels), np.float32), np.empty(len(labels), np.float32))
    none = np.zeros(len(labels), np.float32)
    learn_wide_examples(state, keys, examples, 0, len(labels), none if earlier is None else earlier, output)
    return output
