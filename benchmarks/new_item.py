"""Seconds from an item's record in Kafka until a ranker retrieves it, in a catalogue of 100,000.

One ranker process (`thalweg run ranker --http`) with the store's spec on a real Kafka and Redis of its own. An item is
written and flushed; then pages of a visitor are asked for over HTTP, with all candidates, until the item is on one,
retrieved as `new`. The next item comes after a pause at random, so that items meet all phases of the sweeps.
"""

import random
import time
from contextlib import closing
from typing import Final

import numpy as np
from rich.progress import track
from rich.table import Table

from benchmarks.serve_world import place, ranker
from stream.events.codec import encode
from stream.events.topics import ITEMS
from stream.events.types import Item
from stream.log.kafka_log import KafkaLog
from thalweg.client import Client

CATALOGUE: Final = 100_000
WRITTEN: Final = 100
WAIT_S: Final = 30.0
PAUSE_S: Final = 1.0  # at most
CANDIDATES: Final = 100


def new_item_s(log: KafkaLog, client: Client, name: str) -> float:
    """Seconds from an item's append until it's retrieved. Raises AssertionError when it isn't within WAIT_S."""
    log.send(ITEMS.name, 0, encode(Item(name, {"category": "games"}, name)), name.encode())
    log.flush()
    begun_s = time.monotonic()
    while time.monotonic() < begun_s + WAIT_S:
        page = client.rank("visitor", k=CANDIDATES, history=[], attributes={}, deadline_ms=10_000)
        if name in page.items:
            assert page.sources[page.items.index(name)] == "new", "nobody has installed it"
            return time.monotonic() - begun_s
    raise AssertionError(f"{name} wasn't retrieved within {WAIT_S:g} s")


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    catalogue, written = (10_000, 20) if quick else (CATALOGUE, WRITTEN)
    pause, taken = random.Random(0), []
    with (
        place(quick=True, items=catalogue) as where,
        ranker(where.settings) as process,
        closing(KafkaLog(where.settings)) as log,
        Client([process.address]) as client,
    ):
        for n in track(range(written), "items", transient=True):
            taken.append(new_item_s(log, client, f"launch-{n}"))
            time.sleep(pause.uniform(0, PAUSE_S))
    p50, p99, longest = (float(np.quantile(taken, q)) for q in (0.5, 0.99, 1.0))
    table = Table("", "p50", "p99", "longest", title=f"a new item beside {catalogue:,}, until it's retrieved")
    table.add_row("seconds", *(f"{seconds:.3f}" for seconds in (p50, p99, longest)))
    return table, {"new_item_s_p50": p50, "new_item_s": p99, "new_item_s_max": longest}
