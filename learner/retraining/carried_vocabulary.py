"""Carries embedding rows over to a vocabulary of another dimension or bound."""

from typing import Any

import numpy as np

from learner.deep.vocabulary import FOREVER, LOW_WATER, Vocabulary
from learner.deep.vocabulary_kernels import EMBEDDING_INIT
from stream.tables.dtypes import F32, U64, Bools
from stream.tables.hash_kernels import noise_of
from stream.tables.jit import kernel


def carry_vocabulary(before: Vocabulary, vocabulary: Vocabulary, stale: U64) -> None:
    """All ids but the `stale` ones, with the vectors that they had; over the bound the least recently seen go.

    Components that a vector didn't have start as a new row's do.
    """
    rows, embeddings = before.table.rows(), before.embeddings[: before.rows]
    foreign = (rows[:, 3] == FOREVER) & ~np.isin(rows[:, 0], vocabulary.unseen_keys)  # of columns that are gone
    kept = ~np.isin(rows[:, 0], stale) & ~foreign
    for has_row in (rows[:, 1] != 0, rows[:, 1] == 0):
        kept &= ~has_row | _newest(rows[:, 3], kept & has_row, int(LOW_WATER * vocabulary.max_rows))
    sources = rows[kept & (rows[:, 1] != 0), 1].astype(np.int64)
    unseen = np.zeros(2 * vocabulary.dim, np.float32)
    both = min(before.dim, vocabulary.dim)
    unseen[vocabulary.dim :] = vocabulary.initial
    for start, old_start in ((0, 0), (vocabulary.dim, before.dim)):
        unseen[start : start + both] = embeddings[0, old_start : old_start + both]
    if before.dim == vocabulary.dim and kept.all():
        vocabulary.restore(rows, embeddings[sources], unseen, before.free_rows())
        return
    rows = rows[kept]
    assigned = rows[:, 1] != 0
    rows[assigned, 1] = np.arange(1, len(sources) + 1)
    carried = new_rows(rows[assigned, 0].copy(), vocabulary.dim, vocabulary.initial)
    for start, old_start in ((0, 0), (vocabulary.dim, before.dim)):
        carried[:, start : start + both] = embeddings[sources, old_start : old_start + both]
    vocabulary.restore(rows, carried, unseen, np.zeros(0, np.int64))


def _newest(seen: U64, among: Bools, most: int) -> Bools:
    """Which of these are the `most` last seen, or as recent as the last of them; all, while there are no more."""
    if np.count_nonzero(among) <= most:
        return among
    last = np.partition(seen[among], -most)[-most]
    newest: Bools = among & (seen >= last)
    return newest


@kernel
def new_rows(ids: U64, dim: int, initial: np.float32) -> F32:
    """[vector | sums] of these ids as `count_sightings` starts them, float32 [N, 2 · dim]."""
    rows: Any = np.empty((ids.shape[0], 2 * dim), np.float32)
    for i in range(ids.shape[0]):
        for c in range(dim):
            rows[i, c] = np.float32(noise_of(ids[i], c) * EMBEDDING_INIT)
            rows[i, dim + c] = initial
    return rows  # type: ignore[no-any-return]  # a kernel
