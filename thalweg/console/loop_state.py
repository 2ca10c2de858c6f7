"""What the page shows of the loop, from what its rooms export: rates, delays, lags, figures. Pure."""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from prometheus_client.samples import Sample

from thalweg.console.rooms import RoomReading
from thalweg.stack import status

RATE_S: Final = 5.0
DELAY_S: Final = 15.0
COUNTERS: Final = {  # rates per second
    "events": "thalweg_joiner_events_total",
    "examples": "thalweg_joiner_examples_total",
    "learned": "thalweg_learner_examples_total",
    "versions": "thalweg_ranker_swaps_total",
    "replies": "thalweg_ranker_replies_total",
}
HISTOGRAMS: Final = {  # delays
    "wide": "thalweg_ranker_freshness_seconds",
    "deep": "thalweg_ranker_freshness_deep_seconds",
    "answer": "thalweg_ranker_answer_seconds",
}
COUNTED: Final = {metric: name for name, metric in COUNTERS.items()} | {
    f"{metric}_bucket": name for name, metric in HISTOGRAMS.items()
}
LAGS: Final = {
    room: f"{next(iter(topics.values()))}_seconds" for room, topics in status.LAGS.items()
}  # its first topic's
FIGURES: Final = ("examples", "auc", "log_loss", "calibration", "base_rate")
FIGURE_METRICS: Final = {f"thalweg_learner_{name}": name for name in FIGURES if name != "examples"} | {
    "thalweg_learner_predicted_examples": "examples"
}
DEAD_LETTERS: Final = tuple(f"thalweg_{room}_dead_letters_total" for room in ("joiner", "learner", "ranker"))
BAD_ITEMS: Final = "thalweg_ranker_bad_entities_total"  # each ranker reads all items, and counts the same ones
STALENESS: Final = "thalweg_ranker_staleness_seconds"
VERSION: Final = "thalweg_ranker_version"
NAMES: Final = (
    *COUNTERS.values(), *HISTOGRAMS.values(), *LAGS.values(), *FIGURE_METRICS, *DEAD_LETTERS, BAD_ITEMS,
    STALENESS, VERSION,
)  # fmt: skip

Buckets = Sequence[tuple[float, float]]  # upper bound, observations up to it
_ByName = Mapping[str, Sequence[Sample]]


class LoopState:
    """Turns readings into the sections of the page, and a point of its plots, at each update.

    Rankers may serve other models, too: what has a model's name counts for `model` alone.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._seen: dict[tuple[str, str], tuple[float, dict[str, float]]] = {}  # by instance: when, and its counts
        self._past: deque[tuple[float, dict[str, float]]] = deque()  # by time: how much counts have grown

    def update(self, readings: Sequence[RoomReading], now_s: float) -> tuple[dict[str, Any], list[float | None]]:
        """Sections by name, and a point: events/s, then p50 and p99 of each delay in ms. `now_s` is monotonic."""
        by_name: defaultdict[str, list[Sample]] = defaultdict(list)
        for reading in readings:
            for sample in reading.samples:
                if sample.labels.get("model", self._model) == self._model:
                    by_name[sample.name].append(sample)
        self._remember(readings, now_s)
        rankers = sum(one.room == "ranker" and one.state != "gone" for one in readings)
        rates = self._rates(now_s)
        rates["versions"] = significant(rates["versions"] / max(1, rankers))
        delays = {name: self._delay_ms(name, now_s) for name in HISTOGRAMS}
        staleness_s = _greatest(by_name[STALENESS])
        sections = {
            "rooms": [[one.room, one.worker, one.state, one.note] for one in readings],
            "rates": rates,
            "delays": delays,
            "lags": {room: significant(_greatest(by_name[metric])) for room, metric in LAGS.items()},
            "model": _figures(by_name) | {"staleness_s": significant(staleness_s)},
            "live": sorted({int(one.value) for one in by_name[VERSION]}),
            "slices": slices_of(by_name),
            "dead": int(sum(_total(by_name[name]) for name in DEAD_LETTERS) + _greatest(by_name[BAD_ITEMS])),
        }  # fmt: skip
        return sections, [rates["events"], *(value for delay in delays.values() for value in delay)]

    def _remember(self, readings: Sequence[RoomReading], now_s: float) -> None:
        """Each instance grows by itself: one that comes, goes or starts again takes nothing from the others.

        What it counted before it was seen, or while it wasn't for long, isn't growth of now.
        """
        self._seen = {instance: seen for instance, seen in self._seen.items() if now_s - seen[0] <= DELAY_S}
        grown = dict(self._past[-1][1]) if self._past else {}
        for reading in (one for one in readings if one.samples):
            instance, counts = (reading.room, reading.worker), _counts(reading.samples)
            _, before = self._seen.get(instance, (now_s, counts))
            self._seen[instance] = now_s, counts
            for name, count in counts.items():
                had = before.get(name, 0.0)
                grown[name] = grown.get(name, 0.0) + (count - had if count >= had else count)
        self._past.append((now_s, grown))
        while len(self._past) > 2 and self._past[1][0] <= now_s - DELAY_S:
            self._past.popleft()

    def _since(self, seconds: float, now_s: float) -> tuple[float, dict[str, float]]:
        """The newest counts that are at least this old, else the oldest."""
        old = [one for one in self._past if one[0] <= now_s - seconds]
        return old[-1] if old else self._past[0]

    def _rates(self, now_s: float) -> dict[str, float]:
        then_s, before = self._since(RATE_S, now_s)
        after = self._past[-1][1]
        took_s = now_s - then_s
        return {
            name: significant((after.get(name, 0.0) - before.get(name, 0.0)) / took_s) if took_s > 0 else 0.0
            for name in COUNTERS
        }

    def _delay_ms(self, name: str, now_s: float) -> list[float | None]:
        before, after = self._since(DELAY_S, now_s)[1], self._past[-1][1]
        buckets = sorted(
            (float(key.split()[1]), count - before.get(key, 0.0))
            for key, count in after.items()
            if key.startswith(f"{name} ")
        )
        found = (quantile(buckets, q) for q in (0.5, 0.99))
        return [None if seconds is None else significant(seconds * 1e3) for seconds in found]


def _counts(samples: Iterable[Sample]) -> dict[str, float]:
    """What an instance counts that rates and delays come from: by name; of histograms by name and bound."""
    counts: dict[str, float] = {}
    for one in samples:
        if name := COUNTED.get(one.name):
            key = f"{name} {one.labels['le']}" if "le" in one.labels else name
            counts[key] = counts.get(key, 0.0) + one.value
    return counts


def quantile(buckets: Buckets, q: float) -> float | None:
    """A quantile by linear interpolation within its bucket; None without observations.

    What is above the last finite bound counts as that bound.

    >>> quantile([(1.0, 0), (2.0, 10), (float("inf"), 10)], 0.5)
    1.5
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    wanted, low, below = q * total, 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            if bound == float("inf"):
                return low
            return low + (bound - low) * ((wanted - below) / (count - below) if count > below else 1.0)
        low, below = bound, count
    return low


def significant(value: float) -> float:
    """Rounded to three significant digits: what is shown, and few bytes.

    >>> significant(1234.5), significant(0.01234), significant(float("nan"))
    (1230.0, 0.0123, 0.0)
    """
    return float(f"{value:.3g}") if value == value else 0.0


def slices_of(by_name: _ByName) -> list[list[str | float | None]]:
    """Rows of slice, window, and FIGURES; the whole first. A figure that isn't defined is None."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for metric, figure in FIGURE_METRICS.items():
        for one in by_name.get(metric, ()):
            rows.setdefault((one.labels["slice"], one.labels["window"]), {})[figure] = one.value
    ordered = sorted(rows.items(), key=lambda row: (row[0][0] != "all", row[0]))
    return [[*key, *(_rounded(row.get(name)) for name in FIGURES)] for key, row in ordered]


def _figures(by_name: _ByName) -> dict[str, float | None]:
    """The figures of the whole over its recent window, and how many examples were learned."""
    rows = [row for row in slices_of(by_name) if row[0] == "all" and row[1] != "lifetime"]
    named: dict[str, Any] = dict(zip(FIGURES, rows[0][2:], strict=True)) if rows else {}
    return named | {"examples": int(_total(by_name.get(COUNTERS["learned"], ())))}


def _rounded(value: float | None) -> float | None:
    return None if value is None or value != value else round(value, 4)


def _total(samples: Iterable[Sample]) -> float:
    return sum(one.value for one in samples)


def _greatest(samples: Iterable[Sample]) -> float:
    return max((one.value for one in samples if one.value == one.value), default=0.0)
