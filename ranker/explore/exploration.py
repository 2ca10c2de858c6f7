"""Exploration of one request: its spec's way to draw, its own random numbers, what is uncertain of its candidates."""

import hashlib
from typing import assert_never

import numpy as np

from ranker.explore.draws import Draw, epsilon_greedy, thompson, upper_bound
from ranker.versions.model import Version
from stream.tables.dtypes import I64, U64


def random_of(seed: int, request_id: str) -> np.random.Generator:
    """Random numbers of a request: the same each time it is ranked."""
    digest = hashlib.blake2b(f"{seed} {request_id}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def draw_of(request_id: str, version: Version, words: U64, candidates: I64) -> Draw | None:
    """How a request's positions are filled by the version's spec; None: by the best, as without exploration.

    `words`: the page as it is served. `candidates`: int64 [n], which of its items have the keys that are drawn from.
    """
    explore = version.plan.spec.explore
    match explore.kind:
        case "none":
            return None
        case "epsilon":
            return epsilon_greedy(explore.epsilon, random_of(explore.seed, request_id))
        case "thompson":
            deviations = explore.scale * version.uncertainty(words, candidates)
            return thompson(deviations, random_of(explore.seed, request_id))
        case "ucb":
            return upper_bound(explore.scale * version.uncertainty(words, candidates))
        case _:
            assert_never(explore.kind)
