"""Organic installs in `examples`: they move the statistics that are of them, once each, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from learner.checkpoints.checkpoint import restore, take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.learner import Learner
from learner.training.model import Model
from stream.events.codec import decode_entity, encode, encode_record
from stream.events.topics import EXAMPLES, EXAMPLES_DLQ
from stream.events.types import DeadLetter, Examples, Organic, TrainingEvent
from stream.log.memory_log import MemoryLog
from stream.spec.spec import Spec
from tests.support.assembled_versions import assembled, learned_state
from tests.support.learned_models import assert_same
from tests.support.learner_world import records, small_spec
from tests.support.publisher_bench import Bench

COUNTED = '[statistics]\ninstalls = { kind = "count", of = "organic", by = ["item.id"], half_life = "1h" }'
WANTED = {'window = "2s"': 'window = "2s"\norganic = "examples"'}
SPEC = small_spec(**{"[statistics]": COUNTED}, **WANTED)
INDIFFERENT = small_spec(**WANTED)
MOVED = ("statistics", "statistics_sweep", "id_sources")


def organic(n: int, item: int = 3) -> Organic:
    """The n-th install that no page claimed."""
    return Organic(f"u{n % 5}", f"i{item}", 1_000_000 + 7_000 * n, f"organic{n}", "", 1_000_005 + 7_000 * n)


def mixed(pages: int, spec: Spec = SPEC) -> list[list[TrainingEvent]]:
    """Records of examples, with organic installs behind most of them, before one, and alone in one."""
    log: list[list[TrainingEvent]] = []
    for n, record in enumerate(records(spec, pages)):
        log.append([*record, *(organic(10 * n + k, k) for k in range(n % 4))])
    log[5] = [organic(9_900), *log[5]]
    log.insert(7, [organic(9_901), organic(9_902)])
    return log


def labels_of(log: list[list[TrainingEvent]]) -> list[list[Examples]]:
    """The same log without organic installs."""
    return [[event for event in record if isinstance(event, Examples)] for record in log]


def learned(spec: Spec, log: list[list[TrainingEvent]], model: Model | None = None, start: int = 0) -> Model:
    """A model that learned log[start:]."""
    model = model or Model(spec)
    for offset in range(start, len(log)):
        model.learn(log[offset], offset)
    return model


def test_they_move_statistics_and_the_memory_of_ids_alone() -> None:
    """Weights, vocabulary, figures, watermark: bit for bit those of a log that has none of them."""
    log = mixed(450)
    with_them, without = learned(SPEC, log), learned(SPEC, [list(record) for record in labels_of(log)])
    assert with_them.organic == sum(isinstance(event, Organic) for record in log for event in record) > 100
    one, other = take(with_them, 0, 0, 0), take(without, 0, 0, 0)
    for name in (name for name in one.arrays.keys() - set(MOVED) if not name.startswith("ids.")):
        assert one.arrays[name].tobytes() == other.arrays[name].tobytes(), name
    assert (one.meta.organic, other.meta.organic) == (with_them.organic, 0)
    assert one.meta.examples == other.meta.examples
    assert (one.meta.watermark_ms, one.meta.learned_ms) == (other.meta.watermark_ms, other.meta.learned_ms)
    assert with_them.installs == without.installs
    rows = {int(row[0]): row.tobytes() for row in one.arrays["statistics"]}
    others = {int(row[0]): row.tobytes() for row in other.arrays["statistics"]}
    assert others.items() <= rows.items()
    assert len(rows) - len(others) == len({event.item for record in log for event in record
                                           if isinstance(event, Organic)})  # fmt: skip


def test_an_organic_install_is_learned_once() -> None:
    """Again in the same record, in a later one, or with other examples: it counts as a duplicate and moves nothing."""
    log = mixed(60)
    plain, twice = learned(SPEC, log), Model(SPEC)
    for offset, record in enumerate(log):
        installs = [event for event in record if isinstance(event, Organic)]
        twice.learn([*record, *installs], offset)
        twice.learn(log[offset // 2], offset)
    assert twice.organic == plain.organic
    assert twice.examples == plain.examples
    rows = [model.statistics.table.rows() for model in (plain, twice)]
    assert rows[0][np.argsort(rows[0][:, 0])].tobytes() == rows[1][np.argsort(rows[1][:, 0])].tobytes()
    read_again = [event for offset in range(len(log)) for event in log[offset // 2]]
    assert twice.duplicates == plain.organic + sum(
        len(event.ids) if isinstance(event, Examples) else 1 for event in read_again
    )


def test_a_users_install_id_is_another_users_too() -> None:
    """Install ids are a user's own: the same one of two users is two installs."""
    model = Model(SPEC)
    model.learn([Organic("u", "i", 1, "x"), Organic("v", "i", 1, "x"), Organic("u", "j", 1, "x")], 0)
    assert (model.organic, model.duplicates) == (2, 1)


@pytest.mark.parametrize("stop", [1, 7, 8, 99])
def test_resuming_is_never_having_stopped(tmp_path: Path, stop: int) -> None:
    """Written to disk and read back it goes on bit for bit, also right before and behind a record of them alone."""
    log, files = mixed(450), CheckpointFiles(tmp_path)
    files.write(take(learned(SPEC, log[:stop]), stop, 3, 4))
    found = files.newest()
    assert found is not None
    assert_same(learned(SPEC, log, restore(SPEC, found), stop), learned(SPEC, log))


def test_packing_changes_nothing() -> None:
    """Behind their examples, all in one record before them, or one a record: the same state, bit for bit."""
    log = mixed(60)
    installs = [event for record in log for event in record if isinstance(event, Organic)]
    labels: list[list[TrainingEvent]] = [list(record) for record in labels_of(log)]
    first: list[list[TrainingEvent]] = [[*installs], *labels]
    apart = list(labels)
    apart += [[one] for one in installs]
    models = [learned(SPEC, one) for one in (log, first, apart)]
    assert_same(models[0], models[1])
    assert_same(models[0], models[2])


def test_a_model_without_such_a_statistic_is_indifferent_to_them() -> None:
    """Not even their ids are remembered: its state is that of a log without them."""
    log = mixed(60, INDIFFERENT)
    indifferent = learned(INDIFFERENT, log)
    assert (indifferent.organic, indifferent.examples) == (0, 180)
    log_of_labels: list[list[TrainingEvent]] = [list(record) for record in labels_of(log)]
    assert_same(indifferent, learned(INDIFFERENT, log_of_labels))


def test_a_checkpoint_from_before_there_were_any_is_read(tmp_path: Path) -> None:
    """Their number isn't in it; as long as it is 0 it isn't written either, so that an older build can read it."""
    model = learned(INDIFFERENT, mixed(30, INDIFFERENT))
    files = CheckpointFiles(tmp_path)
    assert b'"organic":' not in files.write(take(model, 3, 0, 0)).read_bytes()
    found = files.newest()
    assert found is not None
    assert_same(restore(INDIFFERENT, found), model)


def test_the_learner_takes_them_from_the_log_and_buries_bad_ones_alone(tmp_path: Path) -> None:
    """A killed learner that reads again from its checkpoint holds the state of one that ran through."""
    log = MemoryLog({EXAMPLES.name: 1, EXAMPLES_DLQ.name: 1}, lambda: 1_000)
    world = mixed(60)
    nobodys = Organic("", "i1", 5, "x")
    world[4].append(nobodys)
    for record in world:
        log.send(EXAMPLES.name, 0, encode_record(record))
    files = CheckpointFiles(tmp_path)

    def run(model: Model, offset: int, until: int) -> Learner:
        learner = Learner(log, model, offset, files, checkpoint_every_ms=0)
        reader = log.reader(EXAMPLES.name, {0: offset})
        read = [record for record in reader.poll(0) if record.offset < until]
        learner.learn(learner.model.record_encoder.records(read), lambda: None)
        return learner

    whole = run(Model(SPEC), 0, len(world))
    letters = [decode_entity(r.value or b"", DeadLetter) for r in log.reader(EXAMPLES_DLQ.name, {0: 0}).poll(0)]
    assert [(one.offset, one.original) for one in letters] == [(4, encode(nobodys))]
    run(Model(SPEC), 0, 8).maybe_checkpoint(now=True)
    run(Model(SPEC), 0, 11)  # and is killed
    found = files.newest()
    assert found is not None
    assert found.meta.offset == 8
    again = run(restore(SPEC, found), found.meta.offset, len(world))
    assert_same(again.model, whole.model)
    assert whole.model.organic > 20


def test_a_version_goes_out_though_only_organic_installs_were_learned(tmp_path: Path) -> None:
    """What they say of popularity is served as soon as a label would be; nothing new makes no version."""
    bench = Bench(tmp_path, spec=SPEC)
    assert bench.turn()
    published = []
    for n, record in enumerate(([organic(1)], [organic(1)], [organic(2)])):
        bench.model.learn(record, 50 + n)
        bench.ms += 100
        published.append(bench.publisher.maybe_publish(51 + n))
        bench.settle()
    assert published == [True, False, True]
    head = bench.store.head()
    assert head is not None
    manifest = bench.store.manifest(head.version)
    assert assembled(bench.store, manifest)[1] == learned_state(bench.model)[1]
    assert manifest.offset == {0: 53}
    bench.publisher.uploader.stop()
