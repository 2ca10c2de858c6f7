"""The ranking service as its callers see it: latency by rate over HTTP and Kafka, capacity, overload, a killed ranker.

One ranker process (`thalweg run ranker --http`) with a model of the store's size and the default tower, 100 retrieved
candidates a request, against a real Kafka and Redis of its own. Requests come open loop from another process, evenly
spaced, each timed from its due time; pages are fresh: a user comes back after all others. Floors in the same run: the
same HTTP server and Kafka clients with a fixed answer. Capacity is the highest rate at which every request is scored
whole and in time for HOLD_S; goodput counts those requests at twice that rate, as a share of it.
"""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from benchmarks.serve_load import Course, Found
from benchmarks.serve_world import Load, Place, RankerProcess, echo, place, ranker

QUIET = 50.0  # requests/s
SHARES = {"half": 0.5, "80": 0.8}
REPEATED = 50  # pages, when they repeat
START_RATE, GROWTH = 200.0, 1.6
RESOLUTION = 0.04  # of capacity
GIVE = 0.95  # of a rate that didn't last for HOLD_S
DEADLINE_MS = 1_000
KILL_DEADLINE_MS = 20_000
KILL_AFTER_S, KILL_S = 2.0, 12.0
QUEUE_AGE = "thalweg_ranker_queue_age_seconds"
WATCH_S = 0.25


@dataclass(frozen=True)
class Lengths:
    """Seconds of each part."""

    rate: float
    probe: float
    hold: float
    overload: float

    @classmethod
    def of(cls, *, quick: bool) -> "Lengths":
        """Those of a run."""
        return cls(5, 2, 4, 6) if quick else cls(30, 4, 30, 30)


@dataclass
class Bench:
    """One ranker under load. `transport` is http or kafka."""

    load: Load
    process: RankerProcess
    lengths: Lengths
    console: Console
    figures: dict[str, float] = field(default_factory=dict)

    def ask(self, transport: str, rate: float, seconds: float, visitors: int = 0) -> Found:
        """A course, and a line about it."""
        course = Course(transport, rate, seconds, visitors=visitors, deadline_ms=DEADLINE_MS)
        course.address = self.process.address if transport == "http" else ""
        before_s = self.process.cpu_s()
        found = self.load.run(course)
        cpu_ms = (self.process.cpu_s() - before_s) / found.sent * 1e3
        self.console.print(line_of(transport, course, found) + f", CPU {cpu_ms:.2f} ms a request")
        return found

    def latencies(self, transport: str, name: str, rate: float) -> None:
        """p50 and p99 at a rate, as figures."""
        found = self.ask(transport, rate, max(self.lengths.rate, 250 / rate))
        self.figures |= {
            f"{transport}_p50_ms_{name}": found.p50_ms, f"{transport}_p99_ms_{name}": found.p99_ms,
            f"{transport}_rank_ms_{name}": found.rank_ms,
        }  # fmt: skip

    def capacity(self, transport: str) -> float:
        """The highest rate at which nothing is shed or late, requests/s."""

        def holds(rate: float, seconds: float) -> bool:
            found = self.ask(transport, rate, seconds)
            return found.full == found.sent

        return highest(holds, self.lengths)

    def overload(self, transport: str, capacity: float) -> None:
        """Twice the capacity: what is still answered, what is shed; the queue's age and the memory meanwhile."""
        ages, stop = [0.0], threading.Event()
        self.ask(transport, 2 * capacity, self.lengths.overload / 3)  # buffers have their size by then
        before_mb = self.process.rss_mb()

        def watch() -> None:
            while not stop.wait(WATCH_S):
                ages.append(self.process.metric(QUEUE_AGE))

        watching = threading.Thread(target=watch)
        watching.start()
        found = self.ask(transport, 2 * capacity, self.lengths.overload)
        stop.set()
        watching.join()
        prefix = "http_" if transport == "http" else ""
        self.figures |= {
            f"{prefix}capacity_rps": capacity,
            f"{prefix}goodput_200": found.full / self.lengths.overload / capacity,
            f"{prefix}shed_200": found.shed / found.sent,
            f"{transport}_longest_ms_200": found.longest_ms,
            f"{transport}_p50_ms_200": found.p50_ms,
            f"{transport}_unanswered_200": found.lost + found.failed,
            "rss_growth_mb_200": max(self.figures.get("rss_growth_mb_200", 0.0), self.process.rss_mb() - before_mb),
        }
        if transport == "kafka":
            self.figures["queue_age_ms_max_200"] = max(ages) * 1e3


def line_of(transport: str, course: Course, found: Found) -> str:
    """A course in a line."""
    return (
        f"{transport} {course.rate:,.0f}/s, {course.seconds:g} s: p50 {found.p50_ms:.2f}, p99 {found.p99_ms:.2f} ms; "
        f"{found.full:,} of {found.sent:,} in time, {found.shed:,} shed, {found.expired:,} expired, "
        f"{found.failed + found.lost} others; ranking {found.rank_ms:.2f} ms, sender {found.late_ms:.2f} ms late"
    )


def highest(holds: Callable[[float, float], bool], lengths: Lengths) -> float:
    """The highest rate that `holds` (rate, seconds), by growth, bisection, and a last run that is longer."""
    good, rate = 0.0, START_RATE
    while holds(rate, lengths.probe):
        good, rate = rate, rate * GROWTH
    bad = rate
    while bad - good > RESOLUTION * bad:
        rate = (good + bad) / 2
        if holds(rate, lengths.probe):
            good = rate
        else:
            bad = rate
    while not holds(good, lengths.hold):
        good *= GIVE
    return good


def floors(here: Place, load: Load, lengths: Lengths, console: Console) -> dict[str, float]:
    """The p50 of a fixed answer over both transports, at QUIET requests/s."""
    with echo(here.settings) as other:
        figures: dict[str, float] = {}
        for transport, address in (("http", other.address), ("kafka", "")):
            course = Course(transport, QUIET, lengths.rate, address=address, prefix=other.prefix)
            load.run(course)  # to warm up
            found = load.run(course)
            console.print("echo over " + line_of(transport, course, found))
            figures |= {f"{transport}_floor_p50_ms": found.p50_ms, f"{transport}_floor_p99_ms": found.p99_ms}
    return figures


def under_load(here: Place, load: Load, lengths: Lengths, console: Console) -> dict[str, float]:
    """All that is measured of one ranker."""
    with ranker(here.settings) as process:
        bench = Bench(load, process, lengths, console)
        for transport in ("http", "kafka"):
            bench.ask(transport, QUIET, 5.0)  # to warm up
            capacity = bench.capacity(transport)
            bench.latencies(transport, "50", QUIET)
            for name, share in SHARES.items():
                bench.latencies(transport, name, share * capacity)
            if transport == "http":
                again = bench.ask(transport, SHARES["half"] * capacity, lengths.rate, visitors=REPEATED)
                bench.figures["fresh_pages_over_repeated"] = bench.figures["http_rank_ms_half"] / again.rank_ms
            bench.overload(transport, capacity)
        return bench.figures


def silence_s(here: Place, load: Load, console: Console) -> float:
    """kill -9 of one of two rankers: the longest that a request had to wait for its reply, over Kafka."""
    settings = here.settings.model_copy(update={"ranker_queue_ms": KILL_DEADLINE_MS})  # the survivor sheds nothing
    with ranker(settings, "a") as victim, ranker(settings, "b"):
        time.sleep(2.0)  # partitions have moved
        course = Course("kafka", QUIET, KILL_AFTER_S + KILL_S, deadline_ms=KILL_DEADLINE_MS)
        load.start(course)
        time.sleep(KILL_AFTER_S)
        victim.process.kill()
        found = load.found()
    console.print("one of two rankers killed: " + line_of("kafka", course, found))
    assert found.full == found.sent, "requests were lost with the ranker"
    return found.longest_ms / 1e3


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    lengths, console = Lengths.of(quick=quick), Console(stderr=True)
    with place(quick=quick) as here, closing(Load(here)) as load:
        figures = floors(here, load, lengths, console)
        figures |= under_load(here, load, lengths, console)
        figures["kill_silence_s"] = silence_s(here, load, console)
    for name in ("p50_ms", "p99_ms"):
        figures[f"http_{name}"] = max(figures[f"http_{name}_50"], figures[f"http_{name}_half"])
        figures[f"kafka_{name}"] = figures[f"kafka_{name}_50"]
    return _table(figures), figures


def _table(figures: dict[str, float]) -> Table:
    table = Table(title="one ranker, specs/store.toml with the default tower, 100 retrieved candidates, open loop")
    for column in ("what", "HTTP", "Kafka"):
        table.add_column(column, justify="left" if column == "what" else "right")

    def row(says: str, http: str, kafka: str, form: str = ".2f") -> None:
        cells = [format(figures[name], form) if name else "" for name in (http, kafka)]
        table.add_row(says, *cells)

    row("a fixed answer, the floor, 50/s: p50, ms", "http_floor_p50_ms", "kafka_floor_p50_ms")
    row("a fixed answer, the floor, 50/s: p99, ms", "http_floor_p99_ms", "kafka_floor_p99_ms")
    for name, says in (("50", "50/s"), ("half", "half of capacity"), ("80", "80 % of capacity")):
        row(f"{says}: p50, ms", f"http_p50_ms_{name}", f"kafka_p50_ms_{name}")
        row(f"{says}: p99, ms", f"http_p99_ms_{name}", f"kafka_p99_ms_{name}")
        row(f"{says}: of it ranking, median, ms", f"http_rank_ms_{name}", f"kafka_rank_ms_{name}")
    row("capacity, requests/s", "http_capacity_rps", "capacity_rps", ",.0f")
    row("at 200 %: scored whole and in time, of capacity", "http_goodput_200", "goodput_200")
    row("at 200 %: shed, of all", "http_shed_200", "shed_200")
    row("at 200 %: p50 of those ranked, ms", "http_p50_ms_200", "kafka_p50_ms_200", ".0f")
    row("at 200 %: the longest of those ranked, ms", "http_longest_ms_200", "kafka_longest_ms_200", ".0f")
    row("at 200 %: failed or without a reply", "http_unanswered_200", "kafka_unanswered_200", ".0f")
    row("at 200 %: the queue's oldest request, ms", "", "queue_age_ms_max_200", ".0f")
    row("at 200 %: growth of memory, MB", "rss_growth_mb_200", "", ".1f")
    row("ranking fresh pages over repeated ones", "fresh_pages_over_repeated", "")
    row("kill -9 of one of two rankers: the longest wait, s", "", "kill_silence_s")
    return table
