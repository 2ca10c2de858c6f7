"""Statistics against a slow reference that follows their definitions, and the promises about order and corrections."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events.types import INSTALLED, LATE_POSITIVE, RETRACTION, WINDOW_CLOSED, Item
from stream.features.encoder import Batch
from stream.features.item_similarity import Outcomes
from stream.features.page_features import words_of
from stream.features.statistic_kernels import Layers
from stream.features.statistics import WIDTH, Statistics, StatisticsProgram
from stream.spec.values import duration_ms
from stream.tables.dtypes import U64
from stream.tables.hash_table import HashTable
from tests.support.feature_pages import LAYOUT, SPEC, Shown, page, pages, parsed

PROGRAM = StatisticsProgram(SPEC, LAYOUT)
START_MS = 1_000_000_000_000
STEADY = [name for name, statistic in SPEC.statistics.items() if not statistic.half_life]


@dataclass(frozen=True)
class Label:
    """A label of the item at `position` of the page `page`."""

    page: int
    position: int
    label: int
    weight: float = 1.0
    reason: int = WINDOW_CLOSED
    time_ms: int = START_MS


def expected_of(base: float, rates: list[float]) -> float:
    """Differences from the base rate, and ratios to it: see `label_expectation.py`."""
    base = min(1 - 1e-6, max(1e-9, base))
    bend = (1 - 2 * base) / (base * (1 - base))
    above = [rate - base for rate in rates]
    together = (math.prod(1 + bend * a for a in above) - 1) / bend if abs(bend) >= 1e-6 else sum(above)
    return min(1 - 0.02 * (1 - base), max(0.02 * base, base + together))


class Slow:
    """What every statistic holds, by definition: [n, s, t] per statistic and ids; () is everything."""

    def __init__(self) -> None:
        self.held: dict[tuple[object, ...], list[float]] = {}

    def learn(self, raw: bytes, label: Label) -> None:
        """Move by one label."""
        found, w = parsed(raw), label.weight
        base = found.base
        rates = [found.statistics[label.position][n] for n, s in SPEC.statistics.items() if s.kind == "rate"]
        expected = 0.5 if math.isnan(base) else expected_of(base, [rate for rate in rates if not math.isnan(rate)])
        n, s = w, w * label.label
        if label.reason in (LATE_POSITIVE, RETRACTION):
            n, s, expected = 0.0, w if label.label else -w, 0.0
        self._move((), n, s, label.time_ms, 0)
        for name, statistic in SPEC.statistics.items():
            half_life = duration_ms(statistic.half_life) if statistic.half_life else 0
            moved = s - w * expected if statistic.kind in ("residual", "affinity") else s
            columns = statistic.by or [statistic.to, statistic.of]
            if statistic.kind in ("residual", "affinity") and found.base == 0.5:
                continue  # ranked before any label
            for ids in product(*(found.column(c, label.position) for c in columns)):
                self._move((name, *ids), n, moved, label.time_ms, half_life)

    def _move(self, key: tuple[object, ...], n: float, s: float, t: float, half_life: float) -> None:
        held = self.held.setdefault(key, [0.0, 0.0, 0.0])
        newest = max(held[2], t)
        if half_life:  # both as of the newer time
            held[:2] = [v * 2 ** ((held[2] - newest) / half_life) for v in held[:2]]
            n, s = (v * 2 ** ((t - newest) / half_life) for v in (n, s))
        held[:] = held[0] + n, held[1] + s, newest

    def read(self, raw: bytes, position: int, now_ms: int) -> tuple[float, dict[str, float]]:
        """The base rate and the statistics of an item of a page."""
        found = parsed(raw)
        n, s, _ = self.held.get((), [0.0, 0.0, 0.0])
        base = (s + 1) / (n + 2)
        values: dict[str, float] = {}
        for name, stat in SPEC.statistics.items():
            each = []
            keys = list(product(*(found.column(c, position) for c in stat.by or [stat.to, stat.of])))
            for ids in keys:
                n, s, t = self.held.get((name, *ids), [0.0, 0.0, -1.0])
                if stat.half_life and now_ms > t:
                    fade = 2 ** ((t - now_ms) / duration_ms(stat.half_life))
                    n, s = n * fade, s * fade
                match stat.kind:
                    case "rate":
                        each.append((s + stat.prior * base) / (n + stat.prior))
                    case "count":
                        each.append(math.log1p(n))
                    case "since":
                        each += [math.log1p(max(0, now_ms - t) / 1000)] if t >= 0 else []
                    case _:
                        each.append(s / (n + stat.prior))
            if stat.kind == "affinity" and keys:
                strongest = sorted(each, key=lambda value: -abs(value))[: stat.neighbours]
                values[name] = sum(strongest) / math.sqrt(len(strongest))
            else:
                values[name] = sum(each) / len(each) if each else math.nan
        return base, values


def learned(statistics: Statistics, raws: Sequence[bytes], labels: Sequence[Label]) -> None:
    """Learn these labels of these pages in one batch."""
    words = [words_of(raw, LAYOUT, len(parsed(raw).item_lists)) for raw in raws]
    starts = np.cumsum([0, *map(len, words)])[:-1].astype(np.int64)
    batch = Batch(
        np.concatenate(words),
        starts,
        np.array([one.page for one in labels], np.int64),
        np.array([one.position for one in labels], np.int64),
    )
    floats = [np.array([getattr(one, n) for one in labels], np.float64) for n in ("label", "weight", "time_ms")]
    reasons = np.array([one.reason for one in labels], np.int64)
    statistics.learn(batch, Outcomes(floats[0], floats[1], reasons, floats[2]))


def filled(shown: Shown, statistics: Statistics, time_ms: int) -> bytes:
    """The page as it would be ranked now."""
    words = shown.words()
    statistics.fill(words, time_ms)
    return words.tobytes()


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Shown], list[Label]]:
    """Pages, and labels of their items at any time, weight and reason."""
    shown = draw(st.lists(pages(items_max=3), min_size=1, max_size=4))
    places = [(p, i) for p, one in enumerate(shown) for i in range(len(one.items))]
    labels = []
    for p, i in draw(st.lists(st.sampled_from(places), max_size=10)):
        reason = draw(st.sampled_from([INSTALLED, WINDOW_CLOSED, LATE_POSITIVE, RETRACTION]))
        label = reason in (INSTALLED, LATE_POSITIVE)
        time_ms = START_MS + draw(st.integers(-100_000, 100_000))
        labels.append(Label(p, i, int(label), draw(st.sampled_from([1.0, 0.5, 3.0])), reason, time_ms))
    return shown, labels


def agree(statistics: Statistics, slow: Slow, shown: Sequence[Shown], time_ms: int) -> None:
    """Assert that both say the same of every item of these pages."""
    for one in shown:
        raw = filled(one, statistics, time_ms)
        found = parsed(raw)
        for i in range(len(one.items)):
            base, wanted = slow.read(raw, i, time_ms)
            assert found.base == pytest.approx(base, rel=1e-6)
            assert found.statistics[i] == pytest.approx(wanted, rel=1e-5, abs=1e-6, nan_ok=True)


@given(histories(), st.integers(-50_000, 200_000))
def test_statistics_are_what_their_definitions_say(made: tuple[list[Shown], list[Label]], after_ms: int) -> None:
    """All kinds, pairs, lists, decay, weights, corrections, labels out of order: read at any time, the same."""
    shown, labels = made
    statistics, slow = Statistics(PROGRAM), Slow()
    raws = [filled(one, statistics, START_MS) for one in shown]
    half = len(labels) // 2
    for part in (labels[:half], labels[half:]):  # pages as ranked before and after some labels
        learned(statistics, raws, part)
        for label in part:
            slow.learn(raws[label.page], label)
        agree(statistics, slow, shown, START_MS + after_ms)
        raws = [filled(one, statistics, START_MS) for one in shown]
    assert len(statistics.table) == len(slow.held)
    assert sorted(statistics.table.rows()[:, 3].view(np.float64)) == sorted(held[2] for held in slow.held.values())


def sums(statistics: Statistics) -> dict[int, tuple[float, float, float]]:
    """n, s, t by key."""
    rows = statistics.table.rows()
    return {int(k): tuple(v) for k, v in zip(rows[:, 0], rows[:, 1:].copy().view(np.float64).tolist(), strict=True)}


def close(one: Statistics, other: Statistics) -> None:
    """Assert that two hold the same, but for rounding."""
    held, others = sums(one), sums(other)
    assert held.keys() == others.keys()
    for key, values in held.items():
        assert values == pytest.approx(others[key], rel=1e-9, abs=1e-9)


@given(histories(), st.randoms(use_true_random=False))
def test_order_is_nothing_to_sums_and_little_to_decay(made: tuple[list[Shown], list[Label]], random: Random) -> None:
    """What a label adds depends on its page alone: any order of labels gives the same state."""
    shown, labels = made
    raws = [filled(one, Statistics(PROGRAM), START_MS) for one in shown]
    one, other = Statistics(PROGRAM), Statistics(PROGRAM)
    learned(one, raws, labels)
    mixed = list(labels)
    random.shuffle(mixed)
    for label in mixed:
        learned(other, raws, [label])
    close(one, other)


@given(histories(), st.data())
def test_a_correction_is_as_if_the_label_had_come_first(
    made: tuple[list[Shown], list[Label]], data: st.DataObject
) -> None:
    """A late positive after a negative, a retraction after an install, with labels between: the right label's state."""
    shown, others = made
    others = [o for o in others if o.reason in (INSTALLED, WINDOW_CLOSED)] or [Label(0, 0, 0)]
    at = data.draw(st.integers(0, len(others) - 1))
    first = others[at]
    right = replace(first, label=1 - first.label, reason=INSTALLED)
    reason = RETRACTION if first.label else LATE_POSITIVE
    correction = replace(first, label=1 - first.label, reason=reason)
    raws = [filled(one, Statistics(PROGRAM), START_MS) for one in shown]
    corrected, never_wrong = Statistics(PROGRAM), Statistics(PROGRAM)
    learned(corrected, raws, [*others[:at], first, *others[at + 1 :], correction])
    learned(never_wrong, raws, [*others[:at], right, *others[at + 1 :]])
    close(corrected, never_wrong)
    whole = [shown_.words().tobytes() for shown_ in shown]  # without logged rates 0.5 is expected: sums are exact
    corrected, never_wrong = Statistics(PROGRAM), Statistics(PROGRAM)
    learned(corrected, whole, [first, correction])
    learned(never_wrong, whole, [right])
    assert sums(corrected) == sums(never_wrong)


@given(histories(), st.data())
def test_an_overlay_hides_the_rows_below_it(made: tuple[list[Shown], list[Label]], data: st.DataObject) -> None:
    """A delta's rows laid over an older base read like the one table that they came from."""
    shown, labels = made
    half = data.draw(st.integers(0, len(labels)))
    statistics = Statistics(PROGRAM)
    raws = [filled(one, statistics, START_MS) for one in shown]
    learned(statistics, raws, labels[:half])
    base: U64 = statistics.table.slots.copy()
    statistics.table.take_changed()
    learned(statistics, raws, labels[half:])
    overlay = HashTable(WIDTH)
    overlay.put(statistics.table.take_changed())
    for one in shown:
        words = one.words()
        PROGRAM.fill(words, START_MS + 1_000, *2 * (Layers(base, overlay.slots),))
        assert words.tobytes() == filled(one, statistics, START_MS + 1_000)


@given(histories())
def test_what_changed_is_what_a_delta_holds(made: tuple[list[Shown], list[Label]]) -> None:
    """Rows taken after learning are exactly those that learning moved."""
    shown, labels = made
    statistics = Statistics(PROGRAM)
    raws = [filled(one, statistics, START_MS) for one in shown]
    learned(statistics, raws, labels)
    statistics.table.take_changed()
    before = sums(statistics)
    learned(statistics, raws, labels[:1])
    fresh = statistics.table.take_changed()
    alone = Statistics(PROGRAM)
    learned(alone, raws, labels[:1])
    assert set(fresh[:, 0].tolist()) == set(sums(alone))
    assert {k: v for k, v in sums(statistics).items() if before.get(k) != v}.keys() <= set(fresh[:, 0].tolist())


def test_before_any_label() -> None:
    """The base rate is a half, rates are the base rate, counts and residuals 0; missing is what has no key."""
    shown = Shown("u", {"likes": ["x"]}, ["a"], {}, [Item("a", {"tags": ["t"]}), Item("b")])
    found = parsed(filled(shown, Statistics(PROGRAM), START_MS))
    assert found.base == 0.5
    wanted = {"item_rate": 0.5, "pair_rate": math.nan, "seen": 0, "faded": 0, "last": math.nan, "taste": 0,
              "trend": math.nan, "alike": 0}  # fmt: skip
    assert found.statistics[0] == pytest.approx(wanted, nan_ok=True)
    assert found.statistics[1] == pytest.approx({**wanted, "faded": math.nan}, nan_ok=True)


def test_a_label_adds_nothing_to_its_own_page() -> None:
    """Filling reads and doesn't move; what a page was ranked by isn't touched by learning from it."""
    statistics = Statistics(PROGRAM)
    shown = Shown("u", {}, ["a"], {}, [Item("a", {"tags": ["t"]})])
    raw = filled(shown, statistics, START_MS)
    assert len(statistics.table) == 0
    learned(statistics, [raw], [Label(0, 0, 1)])
    assert raw != filled(shown, statistics, START_MS)
    assert raw == filled(shown, Statistics(PROGRAM), START_MS)


def test_time_since_is_missing_then_counts_from_the_newest() -> None:
    """log(1 + seconds) from the newest label of the pair; 0, not less, for a page from before it."""
    statistics = Statistics(PROGRAM)
    shown = Shown("u", {}, [], {}, [Item("a", {"tags": ["t"]})])
    raw = filled(shown, statistics, START_MS)
    learned(statistics, [raw], [Label(0, 0, 0, time_ms=START_MS + 5_000), Label(0, 0, 0, time_ms=START_MS)])
    for after_ms, value in ((5_000, 0.0), (15_000, math.log(11)), (0, 0.0)):
        found = parsed(filled(shown, statistics, START_MS + after_ms))
        assert found.statistics[0]["last"] == pytest.approx(value)


def test_affinity_takes_the_strongest_neighbours() -> None:
    """Of three known pairs the two with the greatest residuals count, over √2, a negative one too."""
    statistics = Statistics(PROGRAM)
    target = Item("z")
    for neighbour, label, times in (("a", 1, 3), ("b", 0, 5), ("c", 1, 1)):
        raw = page("u", {}, [neighbour], {}, [target]).tobytes()
        learned(statistics, [raw], [Label(0, 0, label)] * times)
    shown = Shown("u", {}, ["a", "b", "c"], {}, [target])
    strongest = 3 * 0.5 / (3 + 1) + 5 * -0.5 / (5 + 1)
    assert parsed(filled(shown, statistics, START_MS)).statistics[0]["alike"] == pytest.approx(
        strongest / math.sqrt(2), rel=1e-6
    )


def test_a_late_label_counts_faded_however_far_the_newer_ones_have_faded() -> None:
    """A row that decayed to nothing still has its time: what is older by many half-lives adds next to nothing."""
    statistics, slow = Statistics(PROGRAM), Slow()
    shown = Shown("u", {}, [], {}, [Item("a", {"tags": ["t"]})])
    raw = filled(shown, statistics, START_MS)
    late, early = START_MS + 20_000_000, START_MS
    labels = [
        Label(0, 0, 0, time_ms=early),
        Label(0, 0, 1, reason=LATE_POSITIVE, time_ms=late),  # moves the time, adds no weight
        Label(0, 0, 0, time_ms=early),
    ]
    learned(statistics, [raw], labels)
    for label in labels:
        slow.learn(raw, label)
    agree(statistics, slow, [shown], late)
    assert parsed(filled(shown, statistics, late)).statistics[0]["faded"] == 0
