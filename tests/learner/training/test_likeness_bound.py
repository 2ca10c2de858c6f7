"""Likenesses have a table and a bound of their own, in the learner, its checkpoints, and what a ranker serves.

With a windowed rate and a coec beside them, whose rows no other test of the whole way has with eviction.
"""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from learner.checkpoints.checkpoint import Checkpoint, restore, take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.training.model import Model
from stream.events.types import Examples
from stream.runtime.errors import CheckpointError
from stream.spec.spec import Spec
from stream.tables.dtypes import U64
from tests.support.learned_models import assert_same, learned, served_versions
from tests.support.learner_world import records, small_spec

AFFINITY = 'alike = { kind = "affinity", of = "item.id", to = "user.history" }'
OTHERS = f"""{AFFINITY}
near = {{ kind = "likeness", by = ["user.id", "item.id"], neighbours = 40 }}
together = {{ kind = "lift", of = "installs", by = ["user.id", "item.id"] }}
lately = {{ kind = "rate", by = ["item.id"], window = "10m" }}
good = {{ kind = "coec", by = ["item.id"], half_life = "10m" }}"""


def bounded(likenesses: int, statistics: int = 50_000_000) -> Spec:
    """The small spec with a likeness and a lift, and these bounds: smaller than a spec may set, so that they matter."""
    return msgspec.structs.replace(
        small_spec(**{AFFINITY: OTHERS, "[label]": '[label]\norganic = "examples"'}),
        max_likenesses=likenesses,
        max_statistics=statistics,
    )


def many(spec: Spec) -> list[list[Examples]]:
    """Pages whose users and items give more rows than the least bound allows."""
    return records(spec, 450)


def by_key(rows: U64) -> bytes:
    """Rows in the order of their keys."""
    return rows[np.argsort(rows[:, 0])].tobytes()


def test_likenesses_evict_no_other_statistic() -> None:
    """However tight their bound is and however many rows they move, rates of users and items stay, to the bit."""
    spec = bounded(1_000)
    log = many(spec)
    tight, roomy = learned(spec, log), learned(bounded(1_000_000), log)
    assert tight.statistics.likeness_evictor.tally[1] > 0
    assert len(tight.statistics.likenesses) <= 1_000 < len(roomy.statistics.likenesses)
    assert tight.statistics.evictor.tally.sum() == 0
    assert by_key(tight.statistics.table.rows()) == by_key(roomy.statistics.table.rows())
    assert len(tight.statistics.rows()) == len(tight.statistics.table) + len(tight.statistics.likenesses)


def test_other_statistics_evict_no_likeness() -> None:
    """The other way round, too."""
    spec = bounded(1_000_000, 110)
    log = many(spec)
    tight, roomy = learned(spec, log), learned(bounded(1_000_000), log)
    assert tight.statistics.evictor.tally[1] > 0
    assert tight.statistics.likeness_evictor.tally.sum() == 0
    assert by_key(tight.statistics.likenesses.rows()) == by_key(roomy.statistics.likenesses.rows())


@pytest.mark.parametrize("stop", [1, 70, 149])
def test_resuming_is_never_having_stopped(tmp_path: Path, stop: int) -> None:
    """Both tables, and where their eviction stands, are in the checkpoint: the same rows go, bit for bit."""
    spec = bounded(1_000, 110)
    log = many(spec)
    whole = learned(spec, log)
    assert min(whole.statistics.evictor.tally[1], whole.statistics.likeness_evictor.tally[1]) > 0
    files = CheckpointFiles(tmp_path)
    files.write(take(learned(spec, log[:stop]), stop, 3, 4))
    found = files.newest()
    assert found is not None
    assert_same(learned(spec, log, restore(spec, found), stop), whole)


def without_likenesses(checkpoint: Checkpoint) -> Checkpoint:
    """As an earlier build wrote it: one table for all."""
    arrays = {name: array for name, array in checkpoint.arrays.items() if not name.startswith("likenesses")}
    return Checkpoint(checkpoint.meta, arrays)


def test_a_checkpoint_of_one_table_is_refused_if_it_may_have_likenesses() -> None:
    """Nothing tells their rows from the others'; of a spec without a likeness it's read as ever."""
    spec = bounded(1_000)
    model = learned(spec, many(spec)[:20])
    with pytest.raises(CheckpointError, match="likenesses"):
        restore(spec, without_likenesses(take(model, 20, 1, 1)))
    plain = small_spec()
    model = learned(plain, many(plain)[:20])
    assert_same(restore(plain, without_likenesses(take(model, 20, 1, 1))), model)


def test_a_ranker_reads_both_and_drops_what_is_gone() -> None:
    """By deltas, version after version, a ranker fills pages as the learner does, bit for bit but for rounding."""
    spec = bounded(1_000)
    log = many(spec)
    model = Model(spec)
    pages = [np.frombuffer(e.page.features, np.uint64) for record in log for e in record]
    for offset, version in served_versions(model, log):
        for words in pages[3 * offset :: 97]:
            for time_ms in (model.watermark_ms + 200_000, model.watermark_ms + 500_000):
                here, there = words.copy(), words.copy()
                model.statistics.fill(here, time_ms)
                version.fill(there, time_ms)
                np.testing.assert_allclose(here.view(np.float32), there.view(np.float32), rtol=1e-6, equal_nan=True)
    assert model.statistics.likeness_evictor.tally[1] > 0
