"""Admission: a key gets a weight on its n-th page, counted by a counting Bloom filter (McMahan et al. 2013, §5).

A key's counters are four of the 64 of one cache line; only the least of them are raised, so a count is never
too small, and too large for few. When a generation has counted as many keys as it can distinguish, it becomes
the old one, and the old one is dropped: memory is bounded, and sightings of long ago don't count.

A page counts once, however many of its items have the key and in whatever records their examples come: a key finds its
last two pages in a small cache, by hash. Another page counts again after two others in between.
"""

from typing import Final

import numpy as np

from stream.tables.dtypes import I64, U8, U16
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel

LINE: Final = 64  # counters of a cache line
CELLS_MIN, CELLS_MAX = 1 << 16, 1 << 24  # counters of a generation
CELLS_PER_KEY: Final = 16
COUNT_MAX: Final = 15  # the highest `admit` of a spec
PAGES: Final = 32  # hashes of pages beside a line's counters: in pairs, newest first


class Admission:
    """Counts the pages of keys that have no weight yet. `admits` uint8 [crosses]: the page that admits a key.

    Kernels get `admits`, `young`, `old`, `pages`, `added`; all empty when every key is admitted at once.
    """

    def __init__(self, admits: U8, keys_max: int) -> None:
        self.admits: U8 = admits if (admits > 1).any() else np.zeros(0, np.uint8)
        cells = CELLS_MIN
        while cells < min(CELLS_MAX, keys_max // 4):
            cells *= 2
        self._lines = cells // LINE if len(self.admits) else 0
        self.young: U8 = np.zeros((self._lines, LINE), np.uint8)
        self.old: U8 = np.zeros((self._lines, LINE), np.uint8)
        self.pages: U16 = np.zeros((self._lines, PAGES), np.uint16)
        self.added: I64 = np.zeros(1, np.int64)  # keys in `young`

    def is_quiet(self, keys: int) -> bool:
        """Whether no generation is full before `keys` more keys."""
        return not self._lines or (int(self.added[0]) + keys) * CELLS_PER_KEY < self._lines * LINE

    def rotate(self) -> None:
        """Before a record: a full generation becomes the old one."""
        if self._lines and self.added[0] * CELLS_PER_KEY >= self._lines * LINE:
            self.old, self.young = self.young, np.zeros_like(self.young)
            self.added[0] = 0

    def restore(self, young: U8, old: U8, added: I64, pages: U16 | None = None) -> None:
        """Resume from these; earlier builds have no `pages`. Raises ValueError when shapes are another spec's."""
        if young.shape != self.young.shape or old.shape != self.old.shape:
            raise ValueError(f"filters of shape {young.shape} and {old.shape}, wanted {self.young.shape}")
        if pages is not None and pages.shape != self.pages.shape:
            raise ValueError(f"hashes of pages of shape {pages.shape}, wanted {self.pages.shape}")
        self.young, self.old, self.added = young.copy(), old.copy(), added.copy()
        if pages is not None:
            self.pages = pages.copy()


@kernel
def count_sighting(key: np.uint64, page: np.uint64, young: U8, old: U8, pages: U16, added: I64) -> int:
    """Count a sighting on a page; returns the key's count of pages, this one included.

    It's never too small within two generations, but for one of 16,000 pages, which is taken for another.
    """
    h = mix(np.uint64(0x13198A2E03707344), key)
    line = ((h >> np.uint64(32)) * np.uint64(young.shape[0])) >> np.uint64(32)
    least, before = np.uint8(255), np.uint8(255)
    for i in range(4):
        cell = (h >> np.uint64(6 * i)) & np.uint64(63)
        least, before = min(least, young[line, cell]), min(before, old[line, cell])
    if _is_counted(pages[line], h, page):
        return np.int64(least) + np.int64(before)  # type: ignore[return-value]
    if least == 0:
        added[0] += 1
    if least < COUNT_MAX:
        for i in range(4):
            cell = (h >> np.uint64(6 * i)) & np.uint64(63)
            if young[line, cell] == least:
                young[line, cell] = least + 1
    return np.int64(least) + 1 + np.int64(before)  # type: ignore[return-value]


@kernel
def _is_counted(pages: U16, h: np.uint64, page: np.uint64) -> bool:
    """Whether the key of hash `h` was counted on this page; it is from now on. `pages` uint16 [PAGES]."""
    pair = np.int64(h >> np.uint64(24) & np.uint64(PAGES // 2 - 1)) * 2
    mark = np.uint16(mix(h, page) >> np.uint64(48)) | np.uint16(1)  # 0: none
    if pages[pair] == mark or pages[pair + 1] == mark:
        return True
    pages[pair + 1] = pages[pair]
    pages[pair] = mark
    return False
