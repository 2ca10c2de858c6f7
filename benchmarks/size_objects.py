"""Real keys, rows, items, pages: bytes that each takes while its table is at its largest, in a process of its own.

`python -m benchmarks.size_objects JSON` prints the bytes of each kind's count, a line each.
"""

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks.join_memory import memory_bytes

SPEC: Final = Path(__file__).parents[1] / "specs" / "store.toml"
BATCH: Final = 4_096  # keys that come at once
DIM: Final = 32  # of embeddings
ITEMS: Final = 10  # of a page
PACK: Final = 64  # pages a record


def bytes_of(counts: Mapping[str, int]) -> dict[str, float]:
    """Bytes an entity, by kind (those of `MADE`) with how many are made."""
    command = [sys.executable, "-m", "benchmarks.size_objects", json.dumps(counts)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = track(process.stdout, "objects", total=len(counts), console=Console(stderr=True))
        found = {kind: float(line) / count for (kind, count), line in zip(counts.items(), lines, strict=True)}
    return found


def counted(kind: str, count: int) -> float:
    """The same by the rules of memory that rooms check at their start, and by `thalweg size`."""
    from msgspec.structs import replace

    from learner.memory import model_bytes
    from ranker.memory import ITEM
    from stream.runtime.settings import Settings
    from stream.spec.bounds import SLACK
    from stream.spec.spec import Spec
    from thalweg.sizing.plan import open_page_bytes

    spec = Spec(name="x", max_statistics=count)
    deep = replace(spec.deep, max_rows=count, embedding_dim=DIM, hidden_units=[1])
    spec = replace(spec, wide=replace(spec.wide, max_keys=count), deep=deep)
    found = model_bytes(spec, Settings())
    return {
        "wide_key": found["wide"] / count, "statistics_row": found["statistics"] / count,
        "embedding_row": found["embeddings"] / count, "item": SLACK * ITEM, "open_page": open_page_bytes(ITEMS),
    }[kind]  # fmt: skip


def _wide(count: int) -> Callable[[], Any]:
    """Wide keys while the table grows, all of them stamped, none published yet."""
    from learner.wide.ftrl import WIDTH
    from stream.tables.hash_table import HashTable

    HashTable(WIDTH).put(np.ones((1, WIDTH), np.uint64))  # kernels are loaded
    table = HashTable(WIDTH)
    table.stamp()
    return lambda: _filled(table, count)


def _statistics(count: int) -> Callable[[], Any]:
    """Rows of statistics while the table grows, none published yet."""
    from stream.features.statistics import WIDTH
    from stream.tables.hash_table import HashTable

    HashTable(WIDTH).put(np.ones((1, WIDTH), np.uint64))
    return lambda: _filled(HashTable(WIDTH), count)


def _filled(table: Any, count: int) -> Any:
    random, width = np.random.default_rng(1), table.slots.shape[1]
    for first in range(0, count, BATCH):
        keys = random.integers(1, 2**63, min(BATCH, count - first), np.uint64)
        table.reserve_for(keys)
        rows = np.zeros((len(keys), width), np.uint64)
        rows[:, 0] = keys
        table.put(rows)
    return table


def _embedding(count: int) -> Callable[[], Any]:
    """Embedding rows of DIM up to the high water, and as many ids without one: seen on one page, not two."""
    from learner.deep.vocabulary import HIGH_WATER, Vocabulary

    Vocabulary(DIM, 1, 1_000).count(np.arange(1, 3, dtype=np.uint64))

    def make() -> Any:
        vocabulary, ids = Vocabulary(DIM, 2, count), int(HIGH_WATER * count)
        for seed in (1, 2, 1):
            random = np.random.default_rng(seed)
            for first in range(0, ids, BATCH):
                vocabulary.count(random.integers(1, 2**63, min(BATCH, ids - first), np.uint64))
        return vocabulary

    return make


def _item(count: int) -> Callable[[], Any]:
    """Items as a ranker has them: decoded, in the columns of retrieval, and in the live model's catalogue."""
    from ranker.ranking.entity_cache import EntityCache
    from stream.events.codec import decode_entity, encode
    from stream.events.types import Item
    from stream.features.page_features import Layout
    from stream.spec.spec_file import load_spec

    layout = Layout(load_spec(SPEC))

    def make() -> Any:
        cache = EntityCache()
        for n in range(count):
            attributes: dict[str, Any] = {
                "category": f"category {n % 40}",
                "developer": f"developer {n % 5_000}",
                "tags": [f"tag {n % 60}", f"tag {n % 61}"],
                "price": n % 10 + 0.99,
                "age_rating": 12.0,
                "released": float(n),
            }
            item = Item(f"item-{n:07d}", attributes, f"Title {n}", float(n))
            cache.put(item.item, decode_entity(encode(item), Item))
        return cache, cache.catalogue(layout)

    return make


def _page(count: int) -> Callable[[], Any]:
    """Known pages of ten items in a joiner, an install after one in twenty."""
    from benchmarks.join_memory import DAY
    from benchmarks.page_template import CHUNK, PageTemplate
    from stream.joiner.join import Joiner
    from stream.joiner.record_events import read_record
    from stream.joiner.record_processor import warm_up

    warm_up()
    template, join = PageTemplate(), Joiner(DAY)

    def feed(into: Joiner, pages: int) -> Joiner:
        for n, raw in enumerate(template.records(pages, PACK, max(1, pages // 10), 10**12, 1_000)):
            into.join_record(read_record(raw)[0], n, 2 * 10**12)
        return into

    feed(Joiner(DAY), CHUNK)  # what makes pages has its memory by then
    return lambda: feed(join, count)


MADE: Final = {
    "wide_key": _wide, "statistics_row": _statistics, "embedding_row": _embedding, "item": _item, "open_page": _page,
}  # fmt: skip


def measure(kind: str, count: int) -> None:
    """Print by how many bytes this process grows at its most."""
    make = MADE[kind](count)
    before = memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    made = make()
    print(memory_bytes("VmHWM") - before, flush=True)
    del made


def main(counts: Mapping[str, int]) -> None:
    """Measure each kind in a fork of this process, which has made nothing."""
    for kind, count in counts.items():
        child = multiprocessing.get_context("fork").Process(target=measure, args=(kind, count))
        child.start()
        child.join()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
