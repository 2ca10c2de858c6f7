"""Likenesses of a page's items to what its user remembers, read from a version's tables: see `item_similarity.py`."""

from typing import Any

import numpy as np

from ranker.kernels.crossing import BUFFER, read_rows
from ranker.kernels.pair_cache import keep, recall, shown_of
from stream.features.encoder import list_at
from stream.features.item_similarity import HEAD, SHIFT, pair_key
from stream.spec.statistic_kinds import READ_MEMORY
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel


@kernel
def memories_of(words: Any, w32: Any, place: Any, sizes: Any, crosses: Any, measures: Any, rows: Any,
                scratch: Any) -> Any:  # fmt: skip
    """What the user remembers, statistic by statistic: items, residuals, and where each one's begin. Ends: [S + 1]."""
    offsets, sides, places, salts, _ = crosses
    reads, _, _, neighbours = measures
    keys, hashes, n, s, t = scratch.keys, scratch.hashes, scratch.n, scratch.s, scratch.t
    bits = s.view(np.uint64)
    ends = np.zeros(salts.shape[0] + 1, np.int64)
    most = 0
    for k in range(salts.shape[0]):
        most += neighbours[k] if reads[k] == READ_MEMORY else 0
    items, residuals = np.empty(most, np.uint64), np.empty(most, np.float64)
    count = 0
    for k in range(salts.shape[0]):
        if reads[k] == READ_MEMORY:
            user, until = list_at(w32, place, sides[offsets[k]], places[offsets[k]], 0, sizes)
            if until > user:
                head = mix(salts[k] ^ HEAD, words[user])
                keys[0] = head
                read_rows(keys, hashes, 1, rows, 0.0, 0.0, n, s, t)
                labels = min(np.int64(n[0]), neighbours[k])
                for begun in range(0, labels, BUFFER):
                    held = min(BUFFER, labels - begun)
                    for i in range(held):
                        keys[i] = mix(head, np.uint64(begun + i + 1))
                    read_rows(keys, hashes, held, rows, 0.0, 0.0, n, s, t)
                    for i in range(held):
                        if t[i] >= 0.0:
                            items[count], residuals[count] = bits[i], n[i] - SHIFT
                            count += 1
        ends[k + 1] = count
    return items[:count], residuals[:count], ends


@kernel
def fill_likenesses(words: Any, w32: Any, f32: Any, place: Any, sizes: Any, crosses: Any, measures: Any, memories: Any,
                    rows: Any, square: Any, heads: Any, first: Any, last: Any, scratch: Any) -> None:  # fmt: skip
    """Write the likenesses of items first:last into the page."""
    offsets, sides, places, salts, _ = crosses
    reads, priors, _, _ = measures
    items, residuals, ends, near = memories
    keys, hashes, lacking, ratios = scratch.keys, scratch.hashes, scratch.ends, scratch.near
    n, s, t = scratch.n, scratch.s, scratch.t
    which = -1
    for k in range(salts.shape[0]):
        if reads[k] != READ_MEMORY:
            continue
        which += 1
        cells, begun, known = square.cells[which], ends[k], ends[k + 1] - ends[k]
        mine = near[begun : begun + known]
        # Items at once: many keys on their way, and few times to begin.
        together = max(1, min(last - first, BUFFER // max(1, known)))
        shown, homes = np.empty(together, np.uint64), np.empty(together, np.int64)
        for low in range(first, last, together):
            count = min(together, last - low)
            shown_of(words, w32, place, sizes, sides[offsets[k] + 1], places[offsets[k] + 1], low, low + count, heads,
                     shown, homes)  # fmt: skip
            for i in range(count):
                for m in range(known):
                    keys[i * known + m] = pair_key(salts[k], items[begun + m], shown[i])
            lacks = recall(cells, square, rows.limit, homes[:count], mine, keys, hashes, ratios, lacking)
            read_rows(keys, hashes, lacks, rows, 0.0, 0.0, n, s, t)
            for i in range(lacks):
                n[i] = s[i] / (n[i] + priors[k])
            keep(cells, square.epoch, rows.limit, homes, mine, lacking, lacks, n, ratios)
            for i in range(count):
                total, others = 0.0, 0
                for m in range(known if shown[i] != np.uint64(0) else 0):
                    if items[begun + m] != shown[i]:
                        total += residuals[begun + m] * ratios[i * known + m]
                        others += 1
                value = total / np.sqrt(np.float64(others)) if others else np.nan
                f32[place[8] + (low + i) * sizes[4] + k] = value
