"""Random numbers of the world.

What happens on a page is a hash of (seed, purpose, page, position), so it's the same in batches of any size and in
worlds with other rankings (common random numbers). Users, apps, traffic and drift come from numpy's generators, one
per purpose and hour.
"""

from enum import IntEnum
from typing import Final

import numpy as np
import xxhash

from stream.tables.dtypes import F64, I64, U64

BLOCK: Final = 1_024  # pages
GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_M1: Final = np.uint64(0xBF58476D1CE4E5B9)
_M2: Final = np.uint64(0x94D049BB133111EB)
_S11, _S27, _S30, _S31 = (np.uint64(n) for n in (11, 27, 30, 31))


class Purpose(IntEnum):
    """What a random number decides."""

    STRUCTURE = 1
    USERS = 2
    APPS = 3
    OWNED = 4
    TRAFFIC = 5
    LEAVING = 6
    DRIFT = 7
    BASE_RATE = 8
    SCENARIO = 9
    CANDIDATES = 10
    EXAMINATION = 11
    INSTALL = 12
    DELAY = 13
    RETRACTION = 14
    RETRACTION_DELAY = 15
    NAMED = 16
    BOTS = 17
    LATE = 18
    DUPLICATE = 19


def generator(seed: int, purpose: Purpose, number: int = 0) -> np.random.Generator:
    """A generator of its own for this purpose and number (of an hour)."""
    return np.random.default_rng([seed, purpose, number])


class Draws:
    """Uniform numbers in [0, 1), each a function of its arguments alone (splitmix64)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        purposes = np.arange(len(Purpose) + 1, dtype=np.uint64)
        self._keys = _mix(_mix(np.uint64(seed % 2**64) + purposes * _M1))
        self._blocks: dict[tuple[Purpose, int], tuple[int, U64]] = {}  # the newest of a purpose and count

    def hashes(self, purpose: Purpose, numbers: I64, count: int) -> U64:
        """[B, count] hashes of page numbers [B] and positions; a block of neighbours is computed at once."""
        block = int(numbers[0]) // BLOCK if len(numbers) else 0
        offsets = numbers - block * BLOCK
        if not len(numbers) or offsets.view(np.uint64).max() >= BLOCK:
            return self._hashes(purpose, numbers, count)
        known = self._blocks.get((purpose, count))
        if known is None or known[0] != block:
            known = (block, self._hashes(purpose, np.arange(block * BLOCK, (block + 1) * BLOCK), count))
            self._blocks[purpose, count] = known
        return known[1][offsets]

    def _hashes(self, purpose: Purpose, numbers: I64, count: int) -> U64:
        pages = _mix(numbers.astype(np.uint64) * GAMMA + self._keys[purpose])
        return _mix(pages[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GAMMA)

    def pages(self, purpose: Purpose, numbers: I64, count: int) -> F64:
        """[B, count] uniform numbers by page number [B] and position."""
        return (self.hashes(purpose, numbers, count) >> _S11).astype(np.float64) * 2.0**-53

    def users(self, purpose: Purpose, users: I64) -> F64:
        """[B] uniform numbers by user [B]."""
        return (self._hashes(purpose, users, 1)[:, 0] >> _S11).astype(np.float64) * 2.0**-53

    def name(self, purpose: Purpose, name: str) -> float:
        """One uniform number by a name, such as an event's id."""
        return (xxhash.xxh3_64_intdigest(name.encode(), (self._seed * 64 + purpose) % 2**64) >> 11) * 2.0**-53


def log_uniform(draw: float, bounds: tuple[float, float]) -> float:
    """A uniform number as a log-uniform one between bounds."""
    low, high = bounds
    return float(low * (high / low) ** draw)


def _mix(x: U64) -> U64:
    """The finalizer of splitmix64."""
    x = (x ^ (x >> _S30)) * _M1
    x = (x ^ (x >> _S27)) * _M2
    return x ^ (x >> _S31)
