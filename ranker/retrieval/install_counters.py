"""Installs that fade, whatever the spec's statistics do: counted from what each sweep finds more than the last."""

import numpy as np

from stream.tables.dtypes import F64, U64


class InstallCounter:
    """Installs by slot, halved with each `half_life_ms` of event time. What the first sweep finds counts as of then.

    So a ranker that has just started orders by all installs, and after some half-lives by recent ones.
    """

    def __init__(self, half_life_ms: float) -> None:
        self.half_life_ms = half_life_ms
        self._ids = np.zeros(0, np.uint64)
        self._seen, self._faded, self._times = np.zeros(0), np.zeros(0), np.zeros(0)

    def update(self, first: int, ids: U64, installs: F64, fade_ms: float, now_ms: float) -> F64:
        """The faded counts of slots first : first + n, whose items have these installs. float64 [n].

        `fade_ms`: how `installs` fade themselves; see `Statistic.fade_ms`.
        """
        last = first + len(ids)
        self._grow(last)
        part = np.s_[first:last]
        is_known = self._ids[part] == ids
        seen, faded = np.where(is_known, self._seen[part], 0.0), np.where(is_known, self._faded[part], 0.0)
        passed_ms = np.where(is_known, np.maximum(now_ms - self._times[part], 0.0), 0.0)
        expected = seen * 2.0 ** (-passed_ms / fade_ms) if fade_ms > 0 else seen
        counts: F64 = faded * 2.0 ** (-passed_ms / self.half_life_ms) + np.maximum(installs - expected, 0.0)
        self._ids[part], self._seen[part], self._faded[part], self._times[part] = ids, installs, counts, now_ms
        return counts

    def _grow(self, size: int) -> None:
        missing = size - len(self._ids)
        if missing > 0:
            more = np.zeros(max(missing, len(self._ids)))
            self._ids = np.concatenate([self._ids, more.astype(np.uint64)])
            self._seen, self._faded, self._times = (
                np.concatenate([array, more]) for array in (self._seen, self._faded, self._times)
            )
