"""Acquisition of the store's arms over time: installs to be expected per 1,000 shown items."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

CONTROL: Final = "popular"
MODEL: Final = "wide_deep"
ORACLE: Final = "oracle"
LATELY: Final = 20  # reports, of which there's one about each second
BLOCKS: Final = "▁▂▃▄▅▆▇█"


class ArmTotals(msgspec.Struct, array_like=True):
    """What an arm has shown so far; `expected` installs by the world's truth, `oracle`: of the best pages possible."""

    pages: int = 0
    items: int = 0
    installs: int = 0  # that aren't retracted later
    expected: float = 0.0
    oracle: float = 0.0


class StoreProgress(msgspec.Struct, array_like=True, tag="progress"):
    """What was shown so far. `ended`: no page is asked for any more, nor waits for a reply.

    `context`: of the last page.
    """

    arms: dict[str, ArmTotals]
    ended: bool = False
    context: dict[str, str | float] = {}

    @property
    def pages(self) -> int:
        """Of all arms."""
        return sum(arm.pages for arm in self.arms.values())


NOTHING: Final = ArmTotals()


class Acquired(NamedTuple):
    """Installs per 1,000 shown items, to be expected by the world's truth; of the oracle: of the best pages possible.

    `gain`: of the model over the control. All None: nothing was shown.
    """

    control: float | None
    model: float | None
    oracle: float | None
    gain: float | None


class Acquisition:
    """Collects what a store shows."""

    def __init__(self) -> None:
        self._arms: list[Mapping[str, ArmTotals]] = [{}]  # as of each report

    def add(self, progress: StoreProgress) -> None:
        """A report of what was shown so far."""
        self._arms.append(progress.arms)

    def overall(self) -> Acquired:
        """Since the start."""
        return self._between(0, len(self._arms) - 1)

    def lately(self) -> Acquired:
        """In the last LATELY reports."""
        return self._between(max(0, len(self._arms) - 1 - LATELY), len(self._arms) - 1)

    def over_time(self, points: int) -> list[Acquired]:
        """At most so many spans of equal length since the start, without those in which an arm showed nothing."""
        last = len(self._arms) - 1
        bounds = sorted({round(last * point / points) for point in range(points + 1)})
        spans = [self._between(first, end) for first, end in pairwise(bounds)]
        return [span for span in spans if span.gain is not None]

    def figures(self) -> dict[str, float | None]:
        """For the summary."""
        overall, lately, arms = self.overall(), self.lately(), self._arms[-1]
        found: dict[str, float | None] = {
            f"acquisition_{CONTROL}": overall.control,
            f"acquisition_{MODEL}": overall.model,
            "acquisition_oracle": overall.oracle,
            "acquisition_gain": overall.gain,
            f"acquisition_{CONTROL}_lately": lately.control,
            f"acquisition_{MODEL}_lately": lately.model,
            "acquisition_gain_lately": lately.gain,
        }
        for name in (CONTROL, MODEL):
            of = arms.get(name, NOTHING)
            found[f"installs_{name}"] = 1_000 * of.installs / of.items if of.items else None
        return found

    def _between(self, first: int, last: int) -> Acquired:
        before, after = self._arms[first], self._arms[last]

        def per_mille(what: str, *names: str) -> float | None:
            totals = [(after.get(name, NOTHING), before.get(name, NOTHING)) for name in names]
            items = sum(now.items - then.items for now, then in totals)
            installs = sum(getattr(now, what) - getattr(then, what) for now, then in totals)
            return 1_000 * installs / items if items else None

        control, model = per_mille("expected", CONTROL), per_mille("expected", MODEL)
        gain = model / control - 1 if control and model is not None else None
        return Acquired(control, model, per_mille("oracle", CONTROL, MODEL), gain)


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """One block a value, by its height between `low` and `high`.

    >>> sparkline([1.0, 2.0, 3.0], 1.0, 3.0)
    '▁▅█'
    """
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[int(min(max(0.0, (value - low) * scale + 0.5), len(BLOCKS) - 1))] for value in values)
