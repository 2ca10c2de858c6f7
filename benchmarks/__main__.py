"""Run benchmarks by name: a table on the screen, the same figures as JSON, flat, with `machine` beside them."""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.machine import caption, measured

NAMES = {
    "alarms": "drift alarms of a perfect model under a daily wave, and their delay after a turn; peer: River's ADWIN",
    "backup": "backups of 5 million keys beside learning: seconds, bytes of the next one, a restore",
    "calibration": "a bias after 100,000,000 examples at 0.1 % labels; peers: other ways to keep float32 sums",
    "checkpoint": "checkpoints of 10 million keys beside learning: pauses, bytes, restore; peer: a copy at once",
    "console": "the console beside a demo: first paint, bytes, CPU of its server and of a browser by open pages",
    "delays": "log loss of each label policy under the store's delays, a pause, a ramp; peer: labels at once",
    "drift": "examples to recover after the world has turned, by the past's length; what forgetting costs on MovieLens",
    "explain": "fidelity of the deep part's contributions by method, on MovieLens; p99 of an explanation",
    "explore": "propensities against draws, cost of each kind of exploration, what it earns in the store, cold start",
    "explore_coverage": "how often 95 % intervals of off-policy estimates hold the truth, in 100 simulated logs",
    "holdout": "what held-out examples find and let pass, and what holding them out costs: throughput, pauses, AUC",
    "join": "the joiner on one core, Kafka to Kafka, against Faust's windowed tables; memory, latency, faults",
    "joint": "the learner's step against the same network in plain torch; examples per second",
    "learn": "the learner from Kafka to weights, and whole backtests; peers: torch with autograd, Vowpal Wabbit",
    "new_item": "seconds from an item's record until a ranker with 100,000 items retrieves it, through Kafka",
    "profiles": "users' profiles through Redis: memory with 1,000,000 users, a read's cost, a Redis that is slow",
    "quality": "AUC on MovieLens and in the store: wide, deep, both, an ensemble, the peers; same pages, same features",
    "sampling": "the learner at shares of the negatives, in the store at 1 %: time, AUC, calibration",
    "scenarios": "the store's scenarios, one by one: what each does to Wide & Deep in closed loop",
    "store_retrieval": "installs in the store by what is retrieved: the world's candidates, popular ones, quotas",
    "size": "bytes of real keys, rows, items, pages, users beside the memory rule's; CPU time of examples by spec",
    "snapshot": "bytes and time to publish and load versions through Redis, base and delta, by model size",
    "rank": "200 candidates, decoded request to sorted top 10, by the paper's batches and threads, against torch",
    "rare": "planted faults that the publish gate stops at 5, 1, .1 % labels, honest versions that it refuses",
    "relearn": "a new model from exported files, examples per second; peer: the learner from Kafka, same records",
    "retrieve": "recall of the next install on MovieLens, peers: item-kNN and EASE; latency by the catalogue's size",
    "rules": "100 candidates under rules, each kind and all of them; peer: the same ranker without rules",
    "serve": "the ranking service over HTTP and Kafka: latency by rate, capacity, overload, a killed ranker",
    "swap": "latency under load while versions are swapped; cost of building one; no reply mixes two",
    "warm_start": "a model evolved to a changed spec against one that learns it from scratch; cost of a retrain",
    "wide": "the wide part against Vowpal Wabbit and River; examples per second, growth, cost by size",
}
MANY_CORES = {
    "backup",
    "checkpoint",
    "console",
    "join",
    "learn",
    "new_item",
    "rank",
    "rare",
    "relearn",
    "scenarios",
    "serve",
    "swap",
    "warm_start",
}  # all others are pinned to one, if possible


def main() -> int:
    """Parse arguments, pin to the number of cores that a benchmark measures, run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    says = "; ".join(f"{name}: {what}" for name, what in NAMES.items()).replace("%", "%%")  # argparse formats it
    parser.add_argument("name", nargs="?", choices=sorted(NAMES), help=says)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: for a first look, not for quoting")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--keys", type=int, metavar="N", help="backup: this many wide keys, not 5 million")
    given = parser.parse_args()
    options = {"keys": given.keys} if given.keys else {}
    if options and given.name != "backup":
        parser.error("--keys is for backup")
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    under = measured()
    figures: dict[str, float] = {}
    for name in [given.name] if given.name else sorted(NAMES):
        if cores:
            os.sched_setaffinity(0, cores if name in MANY_CORES else {min(cores)})
        table, found = importlib.import_module(f"benchmarks.{name}").run(quick=given.quick, **options)
        Console().print(table)
        Console().print(caption(under), style="italic dim", markup=False, highlight=False)
        figures |= found
    if given.json:
        given.json.write_text(json.dumps(figures | {"machine": under}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
