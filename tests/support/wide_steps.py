"""The wide part alone: a batch is predicted and learned in one call."""

import numpy as np

from learner.wide.ftrl import Ftrl, WideExamples, WideOutput, learn_wide_examples
from stream.features.encoder import WideKeys
from stream.tables.dtypes import F32, Bools


def predict_then_learn(
    ftrl: Ftrl, keys: WideKeys, deep_logits: F32, labels: F32, weights: F32, *, time_ms: int = 0,
    corrects: Bools | None = None,
) -> WideOutput:  # fmt: skip
    """Each example is predicted after the one before was learned. Wide logits and gradients, float32 [B]."""
    state, examples = ftrl.prepare(keys.keys, time_ms), WideExamples(deep_logits, labels, weights)
    output = WideOutput(np.empty(len(labels), np.float32), np.empty(len(labels), np.float32))
    none = np.zeros(len(labels), np.bool_)
    learn_wide_examples(state, keys, examples, 0, len(labels), none if corrects is None else corrects, output)
    return output
