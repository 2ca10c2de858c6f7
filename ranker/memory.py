"""Likenesses of a page's items to what its user remembers, read from a version's tables: see `stream.likeness`."""

from typing import Any

import numpy as np

from ranker.crossing import BUFFER, read_rows
from stream.encoder import list_at
from stream.likeness import HEAD, SHIFT, pair_key
from stream.statistics import LIKENESS
from stream.table import kernel, mix


@kernel
def memories_of(words: Any, w32: Any, place: Any, sizes: Any, crosses: Any, measures: Any, rows: Any,
                scratch: Any) -> Any:  # fmt: skip
    """What the user remembers, statistic by statistic: items, residuals, and where each one's begin. Ends: [S + 1]."""
    offsets, sides, places, salts, _ = crosses
    kinds, _, _, neighbours = measures
    keys, hashes, n, s, t = scratch.keys, scratch.hashes, scratch.n, scratch.s, scratch.t
    bits = s.view(np.uint64)
    ends = np.zeros(salts.shape[0] + 1, np.int64)
    most = 0
    for k in range(salts.shape[0]):
        most += neighbours[k] if kinds[k] == LIKENESS else 0
    items, residuals = np.empty(most, np.uint64), np.empty(most, np.float64)
    count = 0
    for k in range(salts.shape[0]):
        if kinds[k] == LIKENESS:
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
    return items, residuals, ends


@kernel
def fill_likenesses(words: Any, w32: Any, f32: Any, place: Any, sizes: Any, crosses: Any, measures: Any, memories: Any,
                    rows: Any, first: Any, last: Any, scratch: Any) -> None:  # fmt: skip
    """Write the likenesses of items first:last into the page."""
    offsets, sides, places, salts, _ = crosses
    kinds, priors, _, _ = measures
    items, residuals, ends = memories
    keys, hashes, owners = scratch.keys, scratch.hashes, scratch.ends
    n, s, t = scratch.n, scratch.s, scratch.t
    for k in range(salts.shape[0]):
        if kinds[k] != LIKENESS:
            continue
        for position in range(first, last):
            item, until = list_at(w32, place, sides[offsets[k] + 1], places[offsets[k] + 1], position, sizes)
            total, others, at = 0.0, 0, ends[k]
            while until > item and at < ends[k + 1]:
                held = 0
                while at < ends[k + 1] and held < BUFFER:
                    if items[at] != words[item]:
                        keys[held], owners[held] = pair_key(salts[k], items[at], words[item]), at
                        held += 1
                    at += 1
                read_rows(keys, hashes, held, rows, 0.0, 0.0, n, s, t)
                for i in range(held):
                    total += residuals[owners[i]] * s[i] / (n[i] + priors[k])
                others += held
            f32[place[8] + position * sizes[4] + k] = total / np.sqrt(np.float64(others)) if others else np.nan
