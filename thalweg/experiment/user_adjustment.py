"""Adjusts what arms caused for how their users differ."""

import numpy as np

from stream.tables.dtypes import F64, Bools
from thalweg.experiment.traffic_scores import ScoredTraffic


class Adjustment:
    """Adjusts an arm's means for how its users differ from all users, as of before any arm served them.

    Users differ more than rankings do: an arm's luck in its users would hide gains of a few percent. Covariates of a
    user are what their first page promised: expected installs of its popular, its best and random candidates. No arm
    has touched these yet, so the adjustment favours none. Coefficients are by least squares over users, each weighted
    by pages, within arms (CUPED; Deng et al. 2013).
    """

    def __init__(self, traffic: ScoredTraffic) -> None:
        _, first, self._user = np.unique(traffic.user, return_index=True, return_inverse=True)
        promised = np.stack([traffic.popular, traffic.oracle, traffic.random], 1)[first]  # [U, 3]
        self._pages = np.bincount(self._user).astype(np.float64)  # [U]
        self._arm = traffic.arm[first]
        self._promised = promised - np.average(promised, axis=0, weights=self._pages)

    def mean(self, values: F64, rows: Bools) -> float:
        """Adjusted mean of pages' values, float64 [N], over the pages `rows`, bool [N]."""
        of_user = np.bincount(self._user, values) / self._pages
        x, y = self._promised.copy(), of_user.copy()
        for arm in np.unique(self._arm):
            users = self._arm == arm
            x[users] -= np.average(x[users], axis=0, weights=self._pages[users])
            y[users] -= np.average(y[users], weights=self._pages[users])
        weights = np.sqrt(self._pages)
        coefficients, *_ = np.linalg.lstsq(x * weights[:, None], y * weights, rcond=None)
        return float(values[rows].mean() - self._promised[self._user[rows]].mean(0) @ coefficients)
