"""The wide part alone, examples per second: our kernel and whole path, Vowpal Wabbit, River; the same features in turn.

Pages of 10 items, 47 features an item, about a million live keys. All are measured in their second pass over the
same pages, so that every key is live and all memory was touched: Vowpal Wabbit's is the time of a run over two
copies minus that of a run over one, which removes its start, too. All on one core, in turn; medians. Seconds are
CPU time, the system's part included: other processes aren't measured.

    kernel       from the keys of each record (64 pages): predict, then learn, example by example
    path         from a record's bytes: decode, check, encode, predict, learn, statistics, metrics, memory of ids
    vw text      `--ftrl` without `-p`; cache: from its own; learn: its cache minus the same with `--noop`
    river        LogisticRegression with FTRLProximal: predict_proba_one, learn_one
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.table import Table as Shown
from river import linear_model, optim

from benchmarks.shop import names_of, raw_of, records_of, shop_spec, write_text
from learner.training.model import Model
from learner.wide.ftrl import WIDTH, Ftrl, FtrlRates
from learner.wide.ftrl_kernels import WideExamples, WideOutput, learn_wide_examples
from stream.events.codec import decode_examples
from stream.features.encoder import Batch as Pages
from stream.features.encoder import WideKeys
from stream.features.page_features import Layout, words_of
from stream.spec.spec import Spec
from stream.tables.dtypes import F32
from stream.tables.hash_table import STAGE, STEP, HashTable, capacity_for

FEATURES, REPEATS = 47, 7
RATES = FtrlRates(np.full(250, 0.05, np.float32), 1.0, 0.5, 1.0)
VW = (sys.executable, "-m", "vowpalwabbit", "--quiet", "-b", "24")
VW_RATES = ("--ftrl", "--ftrl_alpha", "0.05", "--ftrl_beta", "1", "--l2", "1", "--loss_function", "logistic", "--l1")
TAKE_EVERY_S = 0.25  # as a publisher asks what changed
RECORD = 640  # examples
Batch = tuple[WideKeys, F32]  # a record's keys and labels


def learn_all(ftrl: Ftrl, batches: Sequence[Batch]) -> list[float]:
    """Seconds of each record; changes are collected from time to time, as a publisher does, and not timed."""
    taken, seconds = time.process_time(), []
    for keys, labels in batches:
        ones, nothing = np.ones(len(labels), np.float32), np.zeros(len(labels), np.float32)
        pages = np.arange(len(labels), dtype=np.uint64)
        examples = WideExamples(nothing, labels, ones, np.zeros(len(labels)), pages)
        output = WideOutput(np.empty(len(labels), np.float32), np.empty(len(labels), np.float32))
        begun = time.process_time()
        state = ftrl.prepare(keys.keys, 0)
        learn_wide_examples(state, keys, examples, 0, len(labels), nothing, output)
        ended = time.process_time()
        seconds.append(ended - begun)
        if ended - taken > TAKE_EVERY_S:
            ftrl.table.take_changed()
            taken = ended
    return seconds


def encoded(model: Model, records: Sequence[bytes]) -> list[Batch]:
    """Keys and labels of records, encoded ahead."""
    columns = (columns_of(raw, model.layout) for raw in records)
    return [(model.encoder.wide_keys(pages), labels) for pages, labels in columns]


def columns_of(raw: bytes, layout: Layout) -> tuple[Pages, F32]:
    """A record's pages and labels, from its bytes."""
    pages, _ = decode_examples(raw)
    words = [words_of(page.page.features, layout, len(page.page.items)) for page in pages]
    starts = np.cumsum([0, *map(len, words)])[:-1].astype(np.int64)
    page = np.repeat(np.arange(len(pages)), [len(page.ids) for page in pages])
    position = np.concatenate([page.positions for page in pages]).astype(np.int64)
    labels: F32 = np.concatenate([page.labels for page in pages]).astype(np.float32)
    return Pages(np.concatenate(words), starts, page, position), labels


class Ours:
    """Kernel, with and without a list of what changed, and the whole path; each already in its second pass."""

    def __init__(self, spec: Spec, pages: int) -> None:
        self.records = raw_of(records_of(spec, pages, 1))
        self.spec, self.examples = spec, pages * 10
        self.batches = encoded(Model(spec), self.records)
        self.ftrls = [Ftrl(RATES, HashTable(WIDTH, tracked=tracked)) for tracked in (True, False)]
        for ftrl in self.ftrls:
            learn_all(ftrl, self.batches)

    def kernel_s(self) -> float:
        """Seconds of a pass from keys."""
        return sum(learn_all(self.ftrls[0], self.batches))

    def untracked_s(self) -> float:
        """The same with no list of what changed."""
        return sum(learn_all(self.ftrls[1], self.batches))

    def path_s(self) -> float:
        """Seconds of a second pass from bytes; ids of the first pass are forgotten, as they'd be duplicates."""
        model, count = Model(self.spec), len(self.records)
        for offset, raw in enumerate(self.records):
            model.learn(decode_examples(raw)[0], offset)
        model.learned_ids = type(model.learned_ids)()
        begun = time.process_time()
        for offset, raw in enumerate(self.records):
            model.learn(decode_examples(raw)[0], count + offset)
        taken = time.process_time() - begun
        assert model.examples == 2 * self.examples
        return taken


class Wabbit:
    """Vowpal Wabbit's command on one and on two copies of the pages."""

    def __init__(self, folder: Path, names: Sequence[Sequence[str]], labels: Sequence[float], l1: float = 0.5) -> None:
        self.options = (*VW, *VW_RATES, str(l1))
        self.files = [folder / "one.txt", folder / "two.txt"]
        for times, path in enumerate(self.files, 1):
            write_text(path, names, labels, times)
            self._run("-d", str(path), "--cache_file", f"{path}.cache", "-k", "--noop")

    def _run(self, *options: str) -> float:
        base = VW if "--noop" in options else self.options
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*base, *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime

    def text_s(self) -> float:
        """Seconds of a second pass from text."""
        one, two = (self._run("-d", str(path)) for path in self.files)
        return two - one

    def cache_s(self, *options: str) -> float:
        """From its own cache."""
        one, two = (self._run("-d", str(path), "--cache_file", f"{path}.cache", *options) for path in self.files)
        return two - one

    def noop_s(self) -> float:
        """From its own cache, and nothing learned."""
        return self.cache_s("--noop")


def river_ex_s(names: Sequence[Sequence[str]], labels: Sequence[float], warm: int, timed: int) -> float:
    """Examples per second, after a number of untimed ones."""
    model = linear_model.LogisticRegression(optim.FTRLProximal(alpha=0.05, beta=1.0, l1=0.5, l2=1.0), intercept_lr=0.05)
    rows = [dict.fromkeys(example, 1.0) for example in names[: warm + timed]]
    begun = 0.0
    for n, row in enumerate(rows):
        if n == warm:
            begun = time.process_time()
        model.predict_proba_one(row)  # type: ignore[no-untyped-call]  # River's has no types
        model.learn_one(row, bool(labels[n]))
    return timed / (time.process_time() - begun)


def uniform(random: np.random.Generator, live: int, examples: int) -> WideKeys:
    """Examples of FEATURES keys, each drawn uniformly from `live` ones."""
    drawn = random.integers(0, live, examples * FEATURES).astype(np.uint64)
    return WideKeys(key_of(drawn), np.arange(0, len(drawn) + 1, FEATURES))


def key_of(numbers: "np.ndarray[tuple[int], np.dtype[np.uint64]]") -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    """A wide key for each number, of one of FEATURES crosses."""
    return (numbers << np.uint64(8)) | (numbers % np.uint64(FEATURES) + np.uint64(1))


def filled(live: int, room: int = 0) -> Ftrl:
    """A table with this number of keys and just the capacity for them, or for `room`."""
    ftrl = Ftrl(RATES, HashTable(WIDTH, max(live, room)))
    rows = np.zeros((live, WIDTH), np.uint64)
    rows[:, 0] = key_of(np.arange(live, dtype=np.uint64))
    rows.view(np.float32)[:, 2:] = 1.0
    ftrl.table.put(rows)
    return ftrl


def cost_ns(live: int, records: int) -> float:
    """Nanoseconds per feature, drawn uniformly from this number of live keys."""
    ftrl, random = filled(live), np.random.default_rng(live)
    labels = (random.random(RECORD) < 0.1).astype(np.float32)
    batches = [(uniform(random, live, RECORD), labels) for _ in range(records)]
    learn_all(ftrl, batches[: records // 5])
    return statistics.median(learn_all(ftrl, batches)) / (RECORD * FEATURES) * 1e9


def grow_pause_ms(live: int) -> float:
    """How much longer than usual a record takes, at most, while a table of `live` keys grows."""
    capacity = capacity_for(live)
    begun = int(capacity * (STAGE - 0.02))
    ftrl, random, new = filled(begun, live), np.random.default_rng(5), begun
    labels = np.zeros(RECORD, np.float32)

    def batch() -> Batch:
        nonlocal new
        keys = uniform(random, begun, RECORD)
        fresh = len(keys.keys[::4])  # every fourth key is new
        keys.keys[::4] = key_of(np.arange(new, new + fresh, dtype=np.uint64))
        new += fresh
        return keys, labels

    before = learn_all(ftrl, [batch() for _ in range(20)])
    seconds = list[float]()
    while len(ftrl.table.slots) == capacity or len(ftrl.table.old) > 1:
        seconds += learn_all(ftrl, [batch()])
    assert len(ftrl.table) >= live * 0.99, "it grew at fewer keys"
    return (max(seconds) - statistics.median(before)) * 1e3


def in_turn(kinds: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, measured in turn."""
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(repeats):
        for name, measure in kinds.items():
            found[name].append(measure())
    return found


def run(*, quick: bool) -> tuple[Shown, dict[str, float]]:
    """The table and its figures."""
    spec, pages, repeats = shop_spec(), 2_048 if quick else 10_240, 2 if quick else REPEATS
    ours = Ours(spec, pages)
    names = [name for keys, _ in ours.batches for name in names_of(keys)]
    labels = [float(label) for _, made in ours.batches for label in made]
    with tempfile.TemporaryDirectory() as folder:
        wabbit = Wabbit(Path(folder), names, labels)
        kinds = {"kernel": ours.kernel_s, "untracked": ours.untracked_s, "path": ours.path_s, "vw_text": wabbit.text_s,
                 "vw_cache": wabbit.cache_s, "vw_noop": wabbit.noop_s}  # fmt: skip
        found = in_turn(kinds, repeats)
    found["vw_learn"] = [cache - noop for cache, noop in zip(found["vw_cache"], found["vw_noop"], strict=True)]
    figures = {f"{name}_ex_s": ours.examples / statistics.median(seconds) for name, seconds in found.items()}
    timed = 1_000 if quick else 10_000
    figures["river_ex_s"] = statistics.median(river_ex_s(names, labels, timed, timed) for _ in range(min(3, repeats)))
    pairs = zip(found["kernel"], found["untracked"], strict=True)
    figures |= {
        "features_per_example": sum(len(k.keys) for k, _ in ours.batches) / ours.examples,
        "live_keys": float(len(ours.ftrls[0].table)),
        "tracking_cost_percent": 100 * (statistics.median(a / b for a, b in pairs) - 1),
    }
    small, large = (100_000, 1_000_000) if quick else (100_000, 10_000_000)
    costs = in_turn({str(live): partial(cost_ns, live, 100) for live in (small, large)}, 1 if quick else 3)
    low, high = (statistics.median(costs[str(live)]) for live in (small, large))
    figures |= {"ns_per_feature_1e5": low, "ns_per_feature_1e7": high, "cost_ratio_1e7_over_1e5": high / low}
    grow_pause_ms(2 * STEP)  # compiled now, not measured
    figures["grow_pause_ms_max"] = max(grow_pause_ms(large) for _ in range(1 if quick else 3))
    return _shown(figures), figures


def _shown(figures: dict[str, float]) -> Shown:
    table = Shown(title="the wide part, one core, pages of 10 items with 47 features each (second pass, median)")
    for column in ("", "examples/s", "features/s", "kernel is", "path is"):
        table.add_column(column, justify="right" if column else "left")
    for name in ("kernel", "path", "vw_text", "vw_cache", "vw_learn", "river"):
        rate = figures[f"{name}_ex_s"]
        ratios = [f"{figures[f'{part}_ex_s'] / rate:.2f} times" for part in ("kernel", "path")]
        table.add_row(name, f"{rate:,.0f}", f"{rate * figures['features_per_example'] / 1e6:.1f} M", *ratios)
    table.caption = (
        f"{figures['live_keys']:,.0f} live keys; telling what changed costs {figures['tracking_cost_percent']:.1f} %; "
        f"a feature costs {figures['ns_per_feature_1e5']:.1f} ns at 10⁵ keys drawn uniformly, "
        f"{figures['ns_per_feature_1e7']:.1f} at 10⁷ ({figures['cost_ratio_1e7_over_1e5']:.2f} times that); "
        f"a table of 10⁷ keys that grows delays a record by {figures['grow_pause_ms_max']:.0f} ms at most"
    )
    return table
