"""The wide part: FTRL-Proximal per coordinate with L1 (McMahan et al. 2013, Algorithm 1).

A coordinate is one 16-byte row of a hash table: key; u and n as float32. n is the sum of squared gradients, inflated
(`forgetting.py`). u takes the place of the paper's z: from it the weight w follows without n, which so can fade while w
stays. With clip(x) = min(max(x, −λ1), λ1) and D = (β + √n)/α + λ2

    w = u − clip(u)         z = −clip(u) − w D

A step by gradient g is n += g², then with the new D: u −= g / D beyond ±λ1, which is w −= g / D; and u −= g within,
where u = −z. What passes ±λ1 changes its unit there. In exact numbers that is the paper's z += g − σ w, whose float32
loses g beside a large z; u and n are rounded stochastically (`stochastic_rounding.py`).
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from learner.wide.admission import Admission
from learner.wide.forgetting import Forgetting
from learner.wide.ftrl_kernels import TINY, FtrlState, Rates, scale_sums
from stream.spec.spec import Spec
from stream.spec.values import duration_ms
from stream.tables.dtypes import F32, I64, U8, U32, U64
from stream.tables.eviction import Evictor
from stream.tables.hash_table import HashTable

WIDTH: Final = 2  # key; u, n
STAMPED: Final = 0.5  # share of the bound from which on `last_seen` is recorded


@dataclass(frozen=True)
class FtrlRates:
    """`alphas` float32 [crosses], by the low byte of a key − 1; β, λ1, λ2 as in Vowpal Wabbit and River.

    Sums of squares halve within `half_life_ms` of event time; 0: they stay.
    """

    alphas: F32
    beta: float
    l1: float
    l2: float
    half_life_ms: int = 0


@dataclass(frozen=True)
class KeyBounds:
    """Which keys get and keep a weight: `admits` uint8 and `lifetimes_s` uint32 [crosses] (0: for ever), as `alphas`;
    and at most `keys_max`.
    """

    admits: U8
    lifetimes_s: U32
    keys_max: int


UNBOUNDED: Final = KeyBounds(np.zeros(0, np.uint8), np.zeros(0, np.uint32), 1 << 62)


class Ftrl:
    """Wide weights that learn example by example."""

    def __init__(self, rates: FtrlRates, table: HashTable | None = None, bounds: KeyBounds = UNBOUNDED) -> None:
        self.table = table or HashTable(WIDTH)
        self.evictor = Evictor(bounds.keys_max, bounds.lifetimes_s)
        self.admission = Admission(bounds.admits, bounds.keys_max)
        self.forgetting = Forgetting(rates.half_life_ms)
        self.steps: I64 = np.zeros(1, np.int64)  # examples learned: noise of rounding is a hash of it
        inverse = (1.0 / rates.alphas.astype(np.float64)).astype(np.float32)
        self._rates = inverse, Rates(np.float32(rates.beta), np.float32(rates.l1), np.float32(rates.l2))

    @classmethod
    def of(cls, spec: Spec, alphas: F32) -> "Ftrl":
        """The wide part of a spec, `alphas` as its encoder has them; the bias is admitted at once and stays."""
        wide, crosses = spec.wide, spec.crosses() if "wide" in spec.parts else []
        admits = np.array([*(c.admit or wide.admit for c in crosses), 1], np.uint8)
        expiries = [c.expire or wide.expire for c in crosses]
        lifetimes_s = [*(math.ceil(duration_ms(expiry) / 1_000) if expiry else 0 for expiry in expiries), 0]
        bounds = KeyBounds(admits, np.array(lifetimes_s, np.uint32), wide.max_keys)
        half_life_ms = duration_ms(wide.half_life) if wide.half_life else 0
        return cls(FtrlRates(alphas, wide.beta, wide.l1, wide.l2, half_life_ms), bounds=bounds)

    def set_initial_weight(self, key: int, weight: float) -> None:
        """Let a new key start at this weight, and not at 0 as in Algorithm 1."""
        row = np.array([[key, 0]], np.uint64)
        row.view(np.float32)[0, 2] = weight + math.copysign(float(self._rates[1].l1), weight)
        self.table.put(row)

    def is_quiet(self, keys: int, newest_ms: int) -> bool:
        """Whether `keys` keys, up to this event time, can be learned in one step as in several: nothing is evicted,
        stamped, rotated or scaled down.
        """
        table, evictor = self.table, self.evictor
        return (
            not len(table.last_seen)
            and len(table) + keys <= STAMPED * evictor.keys_max
            and evictor.is_quiet(table, keys)
            and self.admission.is_quiet(keys)
            and self.forgetting.is_quiet(newest_ms)
        )

    def prepare(self, keys: U64, time_ms: int) -> FtrlState:
        """Once a record, before `learn_wide_examples`: make room for its keys, evict others. `time_ms`: event time.

        What it returns is valid until the next `prepare`.
        """
        table, evictor, admission, forgetting = self.table, self.evictor, self.admission, self.forgetting
        self.rescale()
        if len(evictor.lifetimes_s) or len(table) > STAMPED * evictor.keys_max:
            table.stamp()
        evictor.step(table, len(keys), time_ms)
        admission.rotate()
        table.reserve_for(keys)
        inverse_alphas, rates = self._rates
        return FtrlState(table.slots, table.dirty, table.counts, table.last_seen, evictor.now_s, evictor.lifetimes_s,
                         evictor.tally, admission.admits, admission.young, admission.old, admission.pages,
                         admission.added, forgetting.clock, forgetting.half_life_ms, self.steps, inverse_alphas,
                         *rates)  # fmt: skip

    def rescale(self) -> None:
        """Scale all sums down if their inflation asks for it, as `prepare` does: rows read afterwards can be put back
        until it asks for it again.
        """
        self._scale_sums(self.forgetting.rescale())

    def weights(self, rows: U64) -> F32:
        """The weights of table rows [N, 2]. float32 [N]."""
        u: F32 = np.ascontiguousarray(rows).view(np.float32)[:, 2]
        l1 = self._rates[1].l1
        return u - np.clip(u, -l1, l1)

    def sums(self, rows: U64) -> F32:
        """The sums of squared gradients of table rows [N, 2], faded to now. float32 [N]."""
        n: F32 = np.ascontiguousarray(rows).view(np.float32)[:, 3]
        return n / np.float32(self.forgetting.inflation())

    def restore_clock(self, state: I64) -> None:
        """Go on from a checkpoint's clock, after its table. Raises ValueError."""
        self._scale_sums(self.forgetting.restore(state))

    def forget(self, share: float) -> None:
        """Keep this share of all sums of squares; weights stay."""
        self._scale_sums(share)

    def _scale_sums(self, factor: float) -> None:
        if factor != 1.0:
            scale_sums(self.table.slots, factor)
            scale_sums(self.table.old, factor)
            self.table.mark_all_runs()

    def restore_sums(self, rows: U64) -> U64:
        """Rows of earlier builds' checkpoints, key; z, n, as rows of today."""
        inverse, (beta, l1, l2) = self._rates
        rows = np.ascontiguousarray(rows).copy()
        un, crosses = rows.view(np.float32), (rows[:, 0] & np.uint64(255)).astype(np.int64) - 1
        z, n = un[:, 2].astype(np.float64), un[:, 3].astype(np.float64)
        clipped = np.clip(z, -l1, l1)
        un[:, 2] = -clipped - (z - clipped) / ((beta + np.sqrt(n)) * inverse[crosses] + l2 + TINY)
        return rows
