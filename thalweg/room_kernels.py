"""`python -m thalweg.room_kernels ROOM`: compiles the numba kernels of one room, with what its extra installs.

Images run it when they are built (`Dockerfile`), so that no container compiles at its start.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from stream.spec.spec_file import load_spec

SPEC = Path(__file__).resolve().parent / "specs" / "movielens.toml"


def compile_joiner() -> None:
    """What joins a record, and what a join does only in a long run: its memory grows, is saved and restored."""
    from stream.events.types import Impression, Install, Tick
    from stream.joiner.join import Joiner
    from stream.joiner.label_rules import LabelRules
    from stream.joiner.record_events import to_record
    from stream.joiner.record_processor import warm_up
    from stream.joiner.state_store import StateStore

    warm_up()
    rules = LabelRules("eager", window_ms=1_000, known_ms=0)
    joiner = Joiner(rules)
    for offset in range(3):
        pages = [Impression(f"r{offset}-{k}", 1 + offset, f"u{k}", ["a", "b"]) for k in range(200)]
        joiner.feed([*pages, *(Install(page.user, "a", 2 + offset, page.request_id) for page in pages)], offset, 10)
    with TemporaryDirectory() as folder:
        store = StateStore(Path(folder), "")
        store.write(store.capture(joiner.state, 3))
        loaded = store.load(rules, 0, 3)
    assert loaded is not None, "the saved state of the join can't be restored"
    restored = Joiner(rules, joiner.restart_point(3), loaded[0])
    emitted = restored.join_record(to_record([Tick(5_000)]), 3, 5_000)
    assert emitted.labels, "a restored join emits nothing"


def compile_learner() -> None:
    """What learns, checkpoints, publishes, and resumes from a checkpoint and an increment."""
    from learner.checkpoints.checkpoint import restore
    from learner.checkpoints.checkpoint_files import CheckpointFiles
    from learner.checkpoints.checkpointer import Checkpointer
    from learner.jit_warmup import compile_kernels, learn_made_up, made_up_page

    spec = load_spec(SPEC)
    model = compile_kernels(spec)
    words = made_up_page(model.layout)
    with TemporaryDirectory() as folder:
        files = CheckpointFiles(Path(folder))
        checkpointer = Checkpointer(model, files, 0)
        for offset in (10, 11):
            learn_made_up(model, words, offset)
            checkpointer.begin()
            checkpointer.sweep(wait=True)
            checkpointer.cut(offset, 0, 0)
            checkpointer.is_idle(wait=True)
        newest = files.newest()
        assert newest is not None, "no checkpoint was written"
        restored = restore(spec, newest)
        Checkpointer(restored, files, 11, newest.origin)
        learn_made_up(restored, words, 12)
    assert restored.examples > model.examples, "a restored model learns nothing"


def compile_ranker() -> None:
    """What loads and ranks."""
    from ranker.ranking.jit_warmup import compile_kernels
    from ranker.ranking.score import Scorer

    scorer = Scorer(1)
    compile_kernels(scorer)
    scorer.close()


def compile_tools() -> None:
    """What a replay computes for pages that were logged without features: columns, statistics, a join."""
    from producers.features import FeatureBuilder
    from stream.events.types import Impression, Install, Tick

    compile_joiner()
    builder = FeatureBuilder(load_spec(SPEC), 1)
    for n in range(100):
        builder.process(Impression(f"p{n}", 1_000 * n, "u", ["a", "b"]))
        builder.process(Install("u", "a", 1_000 * n + 1, f"i{n}", f"p{n}"))
    builder.process(Tick(10_000_000))


ROOMS: dict[str, Callable[[], None]] = {
    "joiner": compile_joiner,
    "learner": compile_learner,
    "ranker": compile_ranker,
    "tools": compile_tools,
}

if __name__ == "__main__":
    ROOMS[sys.argv[1]]()
