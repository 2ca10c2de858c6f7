"""How a row (n, s, t) of the statistics moves: by a label, or by an organic install. See `statistics.py`."""

from typing import Any

import numpy as np

from stream.spec.statistic_kinds import LEARN_LABELS, LEARN_RESIDUALS
from stream.tables.hash_kernels import CHANGED, mix, place, touch
from stream.tables.jit import kernel


@kernel
def amount(learn: Any, label: Any, expected: Any) -> Any:
    """What a label adds to s; `label` and `expected` are weighted. Raises ValueError for a `learn` without a branch."""
    if learn == LEARN_LABELS:
        return label
    if learn == LEARN_RESIDUALS:
        return label - expected
    raise ValueError("a statistic learns by an unknown branch: see statistic_kinds.py")


@kernel
def move_row(slots: Any, key: Any, n: Any, s: Any, t: Any, half_life: Any, fresh: Any, counts: Any) -> None:
    """Add n and s, as of time t, to a key's row; both as of the newer time. The caller has reserved room."""
    row = place(slots, key, counts)
    touch(slots, row, fresh, counts)
    values = slots.view(np.float64)
    mark = slots[row, 1] & CHANGED
    total, held = abs(values[row, 1]), values[row, 3]
    if half_life > 0.0:
        if t > held:
            fade = 2.0 ** ((held - t) / half_life)
            total *= fade
            values[row, 2] *= fade
        else:
            fade = 2.0 ** ((t - held) / half_life)
            n, s = n * fade, s * fade
    values[row, 1] = total + n
    slots[row, 1] |= mark
    values[row, 2] += s
    values[row, 3] = max(held, t)


@kernel
def organic_keys(ids: Any, organic: Any, products: Any, sides: Any, salts: Any) -> Any:
    """As `fill_product` makes them, of ids [B, 2] of user and item: a page has one id in each of these columns."""
    keys = np.empty(ids.shape[0] * organic.shape[0], np.uint64)
    for b in range(ids.shape[0]):
        for j in range(organic.shape[0]):
            k = organic[j]
            key = salts[k]
            for r in range(products[k], products[k + 1]):
                key = mix(key, ids[b, sides[r]])
            keys[b * organic.shape[0] + j] = key
    return keys


@kernel
def move_organic(keys: Any, times: Any, half_lives: Any, slots: Any, fresh: Any, counts: Any) -> None:
    """Each key by one install."""
    for i in range(keys.shape[0]):
        move_row(slots, keys[i], 1.0, 1.0, times[i], half_lives[i], fresh, counts)
