"""What the page shows follows from what rooms export, and from nothing else."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.samples import Sample

from thalweg.console.loop_state import DELAY_S, LoopState, quantile
from thalweg.console.rooms import RoomReading

INFINITE = float("inf")


class Rooms:
    """One learner, two rankers and a joiner, with metrics that the test moves."""

    def __init__(self) -> None:
        self.joiner, self.learner, self.ranker = CollectorRegistry(), CollectorRegistry(), CollectorRegistry()
        self.events = Counter("thalweg_joiner_events", "", ["kind"], registry=self.joiner)
        self.lag = Gauge("thalweg_joiner_consumer_lag_seconds", "", ["partition"], registry=self.joiner)
        self.auc = Gauge("thalweg_learner_auc", "", ["slice", "window"], registry=self.learner)
        self.learned = Counter("thalweg_learner_examples", "", registry=self.learner)
        self.swaps = Counter("thalweg_ranker_swaps", "", registry=self.ranker)
        self.version = Gauge("thalweg_ranker_version", "", ["model"], registry=self.ranker)
        buckets = (0.1, 0.2, 0.4)
        self.freshness = Histogram("thalweg_ranker_freshness_seconds", "", registry=self.ranker, buckets=buckets)

    def readings(self) -> list[RoomReading]:
        """All of them now."""

        def samples(registry: CollectorRegistry) -> list[Sample]:
            return [one for family in registry.collect() for one in family.samples]

        return [
            RoomReading("joiner", "0", "up", "ok", samples(self.joiner)),
            RoomReading("learner", "0", "up", "learning", samples(self.learner)),
            *(RoomReading("ranker", worker, "up", "ok", samples(self.ranker)) for worker in "ab"),
        ]


def test_rates_are_of_the_last_seconds() -> None:
    """A rate is the growth over five seconds; versions are per ranker; what doesn't answer grows no more."""
    rooms, loop = Rooms(), LoopState("store")
    loop.update(rooms.readings(), 0.0)
    for second in range(1, 11):
        rooms.events.labels("page").inc(10 * second)
        rooms.swaps.inc(4)
        sections, point = loop.update(rooms.readings(), float(second))
    assert sections["rates"]["events"] == point[0] == (6 + 7 + 8 + 9 + 10) * 10 / 5
    assert sections["rates"]["versions"] == 4
    for second, growth in ((11, 7 + 8 + 9 + 10), (16, 0)):
        sections, _ = loop.update([], float(second))
        assert sections["rates"]["events"] == growth * 10 / 5


def test_rooms_that_come_and_go_are_no_growth() -> None:
    """A ranker that isn't reached once or for long, is found with a past, or starts again, bends no rate."""
    loop = LoopState("store")
    started = {"a": (0, 1_000_000), "b": (0, 5_000), "c": (25, 9_000_000)}  # when it was found, and its count then

    def readings(second: int) -> list[RoomReading]:
        found = []
        for worker, (since, count) in started.items():
            is_away = worker == "b" and (second == 9 or 20 <= second < 40)
            if second >= since and not is_away:
                replies = Sample("thalweg_ranker_replies_total", {}, count + 10.0 * (second - since))
                found.append(RoomReading("ranker", worker, "up", "ok", [replies]))
        return found

    rates = []
    for second in range(60):
        if second == 50:
            started["a"] = (50, 10)  # a new process at the same address
        rates.append(loop.update(readings(second), float(second))[0]["rates"]["replies"])
    assert max(rates) <= 30.0, "three rankers, ten a second each"
    assert min(rates[6:]) >= 10.0
    assert rates[19] == 20.0
    assert rates[59] == 30.0


def test_other_models_of_a_ranker_are_not_this_one_s() -> None:
    """A ranker that serves two has two versions; this console's is one of them."""
    rooms = Rooms()
    for model, version in (("store", 42), ("other", 7)):
        rooms.version.labels(model).set(version)
    sections, _ = LoopState("store").update(rooms.readings(), 0.0)
    assert sections["live"] == [42]


def test_bad_items_are_dead_letters() -> None:
    """Rankers write them to `items.dlq`, which the page lists; each finds the same ones."""
    samples = [Sample("thalweg_ranker_bad_entities_total", {"topic": "items"}, 2.0)]
    sections, _ = LoopState("store").update([RoomReading("ranker", one, "up", "ok", samples) for one in "ab"], 0.0)
    assert sections["dead"] == 2


def test_delays_are_quantiles_of_what_was_observed_lately() -> None:
    """What lies longer ago counts no more; without observations there is no number."""
    rooms, loop = Rooms(), LoopState("store")
    _, point = loop.update(rooms.readings(), 0.0)
    assert point[1:3] == [None, None]
    for _ in range(100):
        rooms.freshness.observe(0.35)
    _, point = loop.update(rooms.readings(), 1.0)
    assert point[1:3] == [300.0, 398.0]
    for second in range(2, int(DELAY_S) + 3):
        rooms.freshness.observe(0.05)
        _, point = loop.update(rooms.readings(), float(second))
    assert point[1:3] == [50.0, 99.0]


def test_a_quantile_above_all_bounds_is_the_last_bound() -> None:
    """Nothing is invented beyond what the buckets say."""
    assert quantile([(0.1, 0.0), (0.2, 1.0), (INFINITE, 10.0)], 0.99) == 0.2
    assert quantile([(0.1, 4.0), (INFINITE, 4.0)], 0.5) == 0.05
    assert quantile([], 0.5) is None


def test_lags_versions_and_slices() -> None:
    """A room's greatest lag, the versions that rankers serve, a row per slice with the whole first."""
    rooms, loop = Rooms(), LoopState("store")
    rooms.lag.labels("0").set(1.25)
    rooms.lag.labels("1").set(0.5)
    rooms.version.labels("store").set(42)
    rooms.auc.labels("a", "2000").set(0.6)
    rooms.auc.labels("all", "2000").set(0.75)
    rooms.auc.labels("all", "lifetime").set(float("nan"))
    sections, _ = loop.update(rooms.readings(), 0.0)
    assert sections["lags"]["joiner"] == 1.25
    assert sections["live"] == [42]
    assert [row[:4] for row in sections["slices"]] == [
        ["all", "2000", None, 0.75], ["all", "lifetime", None, None], ["a", "2000", None, 0.6],
    ]  # fmt: skip
    assert sections["model"]["auc"] == 0.75
