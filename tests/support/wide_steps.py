"""The wide part alone: a batch is predicted and learned in one call."""

import itertools

import numpy as np

from learner.wide.ftrl import Ftrl
from learner.wide.ftrl_kernels import WideExamples, WideOutput, learn_wide_examples
from stream.features.encoder import WideKeys
from stream.tables.dtypes import F32, F64, U64

_page_numbers = itertools.count(1)


def keys_of(examples: list[list[int]]) -> WideKeys:
    """Key k of cross c (0 or 1) is 256·k + c + 1."""
    flat = [(k << 8) | (k % 2 + 1) for example in examples for k in example]
    return WideKeys(np.array(flat, np.uint64), np.cumsum([0, *map(len, examples)]))


def predict_then_learn(
    ftrl: Ftrl, keys: WideKeys, deep_logits: F32, labels: F32, weights: F32, *, time_ms: int | F64 = 0,
    earlier: F32 | None = None, pages: U64 | None = None,
) -> WideOutput:  # fmt: skip
    """Each example is predicted after the one before was learned. Wide logits and gradients, float32 [B].

    `time_ms`: event time, of all or float64 [B]. Without `pages` each is on a page of its own.
    """
    times_ms = np.broadcast_to(np.float64(time_ms), len(labels)).copy()
    state = ftrl.prepare(keys.keys, int(times_ms.max(initial=0)))
    output = WideOutput(np.empty(len(labels), np.float32), np.empty(len(labels), np.float32))
    earlier = np.zeros(len(labels), np.float32) if earlier is None else earlier
    if pages is None:
        pages = np.arange(len(labels), dtype=np.uint64) + np.uint64(next(_page_numbers) << 20)
    examples = WideExamples(deep_logits, labels, weights, times_ms, pages)
    learn_wide_examples(state, keys, examples, 0, len(labels), earlier, output)
    return output
