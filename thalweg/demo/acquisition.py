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
    """What an arm has shown so far.

    Installs by the world's truth: `expected` of what was shown, on the same pages `oracle` of the best and `popular` of
    the most popular candidates.
    """

    pages: int = 0
    items: int = 0
    installs: int = 0  # that aren't retracted later
    expected: float = 0.0
    oracle: float = 0.0
    popular: float = 0.0


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


class PastSent(msgspec.Struct, array_like=True, tag="past"):
    """All that was before the world begins has been sent, so many installs among it; the world waits for its start."""

    installs: int


NOTHING: Final = ArmTotals()


class Acquired(NamedTuple):
    """Installs per 1,000 shown items, to be expected by the world's truth on the pages of all users.

    `control`: if all saw what is popular; `oracle`: the best candidates. `gain`: of the model over what is popular, on
    its own users' pages; `model`: if all gained as much. So it doesn't matter how the arms' users differ. None: nothing
    was shown.
    """

    control: float | None
    model: float | None
    oracle: float | None
    gain: float | None


NOBODY: Final = Acquired(None, None, None, None)


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
        """At most so many spans of equal length since the start, without those in which the model showed nothing."""
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

        def total(what: str, *names: str) -> float:
            pairs = ((after.get(one, NOTHING), before.get(one, NOTHING)) for one in names)
            return float(sum(getattr(now, what) - getattr(then, what) for now, then in pairs))

        items, popular = total("items", *after), total("popular", MODEL)
        if not items:
            return NOBODY
        control, oracle = (1_000 * total(what, *after) / items for what in ("popular", "oracle"))
        gain = total("expected", MODEL) / popular - 1 if popular else None
        return Acquired(control, None if gain is None else control * (1 + gain), oracle, gain)


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """One block a value, by its height between `low` and `high`.

    >>> sparkline([1.0, 2.0, 3.0], 1.0, 3.0)
    '▁▅█'
    """
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[int(min(max(0.0, (value - low) * scale + 0.5), len(BLOCKS) - 1))] for value in values)
