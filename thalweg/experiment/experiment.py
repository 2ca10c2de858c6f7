"""An experiment: the closed loop under several seeds, two at a time, each a function of its seed."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from time import perf_counter
from typing import Final

import msgspec

from producers.store.parameters import preset
from producers.store.scenario import load_scenario
from producers.store.storefront import PAGE_ITEMS
from producers.store.world import StoreWorld
from stream.spec.parts import Policy
from stream.spec.spec import Spec
from stream.spec.spec_file import decode_spec, encode_spec
from thalweg.experiment.assignment import Assignment
from thalweg.experiment.closed_loop import ARMS, ClosedLoop
from thalweg.experiment.seed_figures import (
    SHADOWS,
    SeedFigures,
    arm_figures,
    learner_figures,
    shadow_figures,
)
from thalweg.experiment.user_adjustment import Adjustment

PROCESSES: Final = 2  # seeds at a time
PROGRESS_S: Final = 0.5


@dataclass(frozen=True)
class ExperimentConfig:
    """What runs. `rate`: a preset of the world. `sync_ms`: event time between versions, of both parts. `frozen_from`:
    share of the pages after which nothing is published any more."""

    spec: Spec
    rate: str = "usual"
    pages: int = 100_000
    arms: Sequence[str] = ARMS
    scenarios: Sequence[str] = ()
    policy: Policy | None = None
    sync_ms: int = 2_000
    frozen_from: float = 1.0


def run_seed(
    config: ExperimentConfig, seed: int, on_progress: Callable[[int], None] = lambda pages: None
) -> SeedFigures:
    """One run of the closed loop. Deterministic but for its `seconds`."""
    spec = config.spec
    if config.policy:
        label = msgspec.structs.replace(spec.label, policy=config.policy)
        spec = msgspec.structs.replace(spec, label=label)
    spec = decode_spec(encode_spec(spec))  # as rankers read it: a copy from another process has another fingerprint
    world = StoreWorld(preset(config.rate), seed, load_scenario(config.scenarios))
    assignment = Assignment(f"experiment-{seed}", dict.fromkeys(config.arms, 1.0))
    loop = ClosedLoop(
        spec, world, config.arms, assignment.arm_of, seed, config.sync_ms, config.frozen_from, on_progress
    )
    begun = perf_counter()
    traffic = loop.run(config.pages)
    loop.seconds["all"] = perf_counter() - begun
    apps, adjustment = world.app_count, Adjustment(traffic)
    return SeedFigures(
        seed,
        len(traffic.arm),
        float(traffic.labels.mean()),
        {name: arm_figures(traffic, traffic.arm == i, apps, adjustment) for i, name in enumerate(config.arms)},
        {name: shadow_figures(traffic, getattr(traffic, name)) for name in SHADOWS},
        {name: learner_figures(traffic, predictions) for name, predictions in traffic.predictions.items()},
        {name: float(1_000 / PAGE_ITEMS * values.mean()) for name, values in traffic.ranked.items() if len(values)},
        loop.seconds,
        loop.versions_rejected,
    )


def run_seeds(
    runs: Sequence[tuple[ExperimentConfig, int]], on_progress: Callable[[int], None] = lambda pages: None
) -> list[SeedFigures]:
    """All of these runs, configs and seeds, in processes of their own; figures in the same order.

    `on_progress`: pages played so far. The first error ends all runs.
    """
    context = get_context("spawn")
    played, stop = context.Array("q", len(runs), lock=False), context.Event()
    with ProcessPoolExecutor(PROCESSES, context, _share, (played, stop)) as pool:
        pending = [pool.submit(_run, config, seed, number) for number, (config, seed) in enumerate(runs)]
        try:
            while not all(run.done() for run in pending):
                done, _ = wait(pending, PROGRESS_S, FIRST_EXCEPTION)
                if any(run.exception() for run in done):
                    break
                on_progress(sum(played))
            return [run.result() for run in pending if run.done()]
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


_played: list[int] = []  # pages by run, shared with the parent
_stop: Event  # shared with the parent, too


class _StoppedError(Exception):
    """Another run has failed."""


def _share(played: list[int], stop: Event) -> None:
    """In a new process: where it reports its pages, and is stopped."""
    global _played, _stop  # a process pool has no other way to pass them
    _played, _stop = played, stop


def _run(config: ExperimentConfig, seed: int, number: int) -> SeedFigures:
    def on_progress(pages: int) -> None:
        _played[number] = pages
        if _stop.is_set():
            raise _StoppedError

    return run_seed(config, seed, on_progress)
