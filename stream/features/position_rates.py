"""Label rates by position, learned from the stream, and the labels that they lead to expect: for `coec`.

Clicks over expected clicks (Zhang & Jones 2007, "Comparing click logs and editorial labels for training query
rewriting"): what stands high on a page is clicked for standing there. A statistic has a row for each position,
(n, s, t) as others; a label at position p adds the rate of p, as it was before that label,

    (s_p + prior·base) / (n_p + prior)

to its entities' n, and itself to their s. Those rates depend on the order of labels, as memories of likenesses do.
Where good items always stand high, their positions' rates are theirs too, and a coec tells them from others less than
it should: pages that explore, or a few users who see other orders, keep the two apart.
"""

from typing import Final, NamedTuple

import numpy as np

from stream.features.encoder import Batch
from stream.features.item_similarity import Outcomes
from stream.features.statistic_reads import base_rate, faded
from stream.features.statistic_updates import counted, move
from stream.tables.dtypes import F64, I64, U64
from stream.tables.hash_kernels import TableArrays, find_moved, find_or_insert_moved, mark_changed, mark_run, mix
from stream.tables.jit import kernel

POSITIONS: Final = 64  # that have a row; those below share the last one
SEED: Final = np.uint64(0x504F5349)


class PositionRules(NamedTuple):
    """The statistics that go by positions' rates; arrays [C]."""

    statistics: I64  # their indices
    salts: U64
    priors: F64
    fades: F64


@kernel
def expected_clicks(
    batch: Batch, outcomes: Outcomes, rules: PositionRules, base_key: np.uint64, table: TableArrays
) -> F64:
    """What each example is expected to add to the labels of each statistic, f64[B, C]; moves the positions' rows.

    The table has room for POSITIONS · C rows.
    """
    labels, weights, reasons, times = outcomes
    positions, (slots, old, dirty, counts, runs) = batch.position, table
    _, salts, priors, fades = rules
    values, expected = slots.view(np.float64), np.zeros((positions.shape[0], salts.shape[0]))
    if not salts.shape[0]:
        return expected
    row = find_moved(slots, old, base_key, counts)
    all_n, all_s = (abs(values[row, 1]), values[row, 2]) if row >= 0 else (0.0, 0.0)
    for b in range(positions.shape[0]):
        base = base_rate(all_n, all_s)
        n, label = counted(labels[b], weights[b], reasons[b])
        all_n, all_s = all_n + n, all_s + label
        for c in range(salts.shape[0]):
            key = mix(salts[c] ^ SEED, np.uint64(min(positions[b], POSITIONS - 1)))
            row = find_or_insert_moved(slots, old, key, counts)
            mark_changed(slots, row, dirty, counts)
            mark_run(runs, key)
            rows_n, rows_s, _ = faded(abs(values[row, 1]), values[row, 2], values[row, 3], times[b], fades[c])
            expected[b, c] = n * max(0.0, (rows_s + priors[c] * base) / (rows_n + priors[c]))
            move(slots, values, row, (n, label, times[b]), fades[c])
    return expected
