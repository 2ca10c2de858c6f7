"""What the session peers count, compiled. Each kernel adds its scores of a next install to `scores`, f64[items]."""

from typing import Any

import numpy as np

from stream.tables.dtypes import F64, I64
from stream.tables.jit import kernel
from thalweg.backtest.user_sessions import Sessions


@kernel
def add_rules(last: I64, gains: F64, sessions: Sessions, scores: F64) -> None:
    """Rules of the items `last`, newest first, by `SequentialRules`; `gains`: f64[steps], by distance - 1."""
    users, items = sessions.users, sessions.items
    for i in range(last.shape[0]):
        item, weight = last[i], 1.0 / (i + 1.0)
        first, length, _ = users.spans[item]
        for user in users.cells[first : first + length]:
            begin, n, _ = items.spans[user]
            after = begin + 1
            while items.cells[after - 1] != item:
                after += 1
            for x in range(min(gains.shape[0], begin + n - after)):
                scores[items.cells[after + x]] += weight * gains[x]


@kernel
def add_similarities(last: I64, shrinkage: Any, alpha: Any, sessions: Sessions, scores: F64) -> None:
    """Similarities to the items `last`, by `ItemKnn`."""
    users, items = sessions.users, sessions.items
    norms = (np.maximum(users.spans[: scores.shape[0], 1], 1) + shrinkage) ** (1.0 - alpha)  # f64[items]
    for item in last:
        first, length, _ = users.spans[item]
        both = np.zeros(scores.shape[0])  # f64[items], users with both
        for user in users.cells[first : first + length]:
            begin, n, _ = items.spans[user]
            for other in items.cells[begin : begin + n]:
                both[other] += 1.0
        both[item] = 0.0
        scores += both / (norms * (length + shrinkage) ** alpha)


@kernel
def add_neighbours(user: Any, k: Any, sample: Any, decay: Any, sessions: Sessions, scores: F64) -> None:
    """What the neighbours of a user's session have, by `VSkNN`."""
    users, items = sessions.users, sessions.items
    begin, n, _ = items.spans[user]
    similarities = np.zeros(sessions.newest_ms.shape[0])  # f64[S]
    newest = np.zeros(sessions.newest_ms.shape[0])  # f64[S], position of the newest item of both, from the end; 0: none
    found, m = np.empty(sessions.newest_ms.shape[0], np.int64), 0
    for x in range(1, n + 1):
        first, length, _ = users.spans[items.cells[begin + n - x]]
        for other in users.cells[first : first + length]:
            if other == user:
                continue
            if newest[other] == 0.0:
                newest[other] = x
                found[m] = other
                m += 1
            similarities[other] += ((n + 1 - x) / n) ** decay / n
    for other in _neighbours(found[:m], similarities, sessions.newest_ms, k, sample):
        begin, n, _ = items.spans[other]
        for item in items.cells[begin : begin + n]:
            scores[item] += similarities[other] / newest[other] ** decay


@kernel
def _neighbours(found: I64, similarities: F64, newest_ms: I64, k: Any, sample: Any) -> I64:
    """The k most similar of the `sample` newest; the newer first among equals."""
    newest = found[np.argsort(-newest_ms[found], kind="mergesort")[:sample]]
    return newest[np.argsort(-similarities[newest], kind="mergesort")[:k]]
