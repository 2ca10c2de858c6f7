"""kill -9 anywhere: every example is learned once, labels are those of an offline join, weights are bit-equal."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from learner.checkpoints.checkpoint import meta_of, restore
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.training.dedup import source_of
from learner.training.model import Model
from producers.clock import Clock
from producers.replay import ReplayOptions, ReplayResult, replay
from producers.source import WorldEvent
from stream.events.codec import decode_events, decode_examples
from stream.events.topics import EVENTS, EXAMPLES
from stream.events.types import Examples, Impression, SourceEvent
from stream.joiner.label_rules import label_rules
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START, Record
from tests.support.forked_services import Nest
from tests.support.join_oracle import Net, net_of, offline
from tests.support.learned_models import assert_same
from tests.support.waiting import wait_until
from tests.support.whole_system import House, world
from thalweg.stack.stack import Stack

pytestmark = pytest.mark.timeout(400)  # processes that are killed and started again, on a machine that may be busy

PAGES = 1_600
RATE = 300.0
KILLS = (("learner", 300), ("joiner", 1_500), ("learner", 2_700))
PAGES_A_KILL = 400  # the world stops so far on until the next kill has come: each comes in mid-stream


@pytest.fixture(scope="module")
def aftermath(
    nest: Nest, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[House, ReplayResult, list[str]]]:
    """A replay during which joiner and learner were killed in turn; all of it is learned, all has ended."""
    house = House(nest, stack, "crash.", tmp_path_factory.mktemp("crash"))
    house.start("joiner", "learner")
    log = KafkaLog(house.settings, linger_ms=5)
    results: list[ReplayResult] = []

    killed: list[str] = []

    def events() -> Iterator[WorldEvent]:
        pages = 0
        for event in world(PAGES, 11):
            pages += isinstance(event, Impression)
            while pages > PAGES_A_KILL * (len(killed) + 1):
                time.sleep(0.01)
            yield event

    def play() -> None:
        results.append(replay(log, events(), spec=house.spec, options=ReplayOptions(RATE), clock=Clock(), notify=print))

    player = threading.Thread(target=play, daemon=True)
    player.start()
    try:
        for room, after in KILLS:
            learned_at_least(house, after)
            assert player.is_alive(), "killed in mid-stream"
            house.kill(room)
            killed.append(room)
            house.start(room)
        player.join()
        learned_at_least(house, results[0].played.examples)
        house.end("learner")
        yield house, results[0], killed
    finally:
        house.end()
        log.close()


def learned_at_least(house: House, examples: int) -> None:
    """Wait for it."""
    wait_until(lambda: house.metric("learner", "thalweg_learner_examples_total") >= examples, f"{examples} examples")


def everything(house: House, topic: str) -> list[Record]:
    """Every record that there is now; a joiner may still tick."""
    log = KafkaLog(house.settings)
    ends = log.ends(topic)
    reader = log.reader(topic, dict.fromkeys(ends, START))
    found: list[Record] = []
    while any(at < ends[partition] for partition, at in reader.positions().items()):
        found += [one for one in reader.poll(0.2) if one.offset < ends[one.partition]]
    reader.close()
    log.close()
    return found


def learned_log(house: House) -> list[list[Examples]]:
    """The records of `examples`, in order."""
    return [decode_examples(record.value or b"")[0] for record in everything(house, EXAMPLES.name)]


def test_labels_are_those_of_an_offline_join(aftermath: tuple[House, ReplayResult, list[str]]) -> None:
    """Nothing missing, nothing surplus, nothing wrong, though the joiner was killed."""
    house, _, killed = aftermath
    assert killed.count("joiner") == 1
    by_partition: dict[int, list[SourceEvent]] = {}
    for record in everything(house, EVENTS.name):
        by_partition.setdefault(record.partition, []).extend(decode_events(record.value or b"")[0])
    expected: Net = {}
    for events in by_partition.values():
        expected |= offline(events, label_rules(house.spec))
    said = [examples for of_record in learned_log(house) for examples in of_record]
    assert len(expected) == 3 * PAGES
    assert net_of(said) == expected


def test_weights_are_bit_equal_to_a_run_that_was_never_stopped(
    aftermath: tuple[House, ReplayResult, list[str]],
) -> None:
    """Wide, deep, statistics, vocabulary, quantiles, figures: every array of the checkpoint, after two kills."""
    house, _, killed = aftermath
    assert killed.count("learner") == 2
    records = learned_log(house)
    model = Model(house.spec)
    for record in everything(house, EXAMPLES.name):
        model.learn(records[record.offset], record.offset, source_of(record.key))
    found = CheckpointFiles(house.settings.local / "checkpoints" / "crash.small").newest()
    assert found is not None
    assert found.meta == meta_of(model, len(records), found.meta.token, found.meta.version)
    assert_same(restore(house.spec, found), model)


def test_every_example_is_learned_once(aftermath: tuple[House, ReplayResult, list[str]]) -> None:
    """As many as there are distinct ids; what came twice was dropped and counted."""
    house, _, _ = aftermath
    ids = [i for record in learned_log(house) for examples in record for i in examples.ids]
    found = CheckpointFiles(house.settings.local / "checkpoints" / "crash.small").newest()
    assert found is not None
    assert found.meta.examples == len(set(ids)) >= 3 * PAGES
    assert found.meta.duplicates == len(ids) - len(set(ids))


def test_the_statistics_that_the_replay_kept_equal_the_learners(
    nest: Nest, stack: Stack, topic_prefix: str, tmp_path: Path
) -> None:
    """Same keys, same counts, same times; sums up to the rounding of another order of adding."""
    house = House(nest, stack, topic_prefix, tmp_path)
    house.start("joiner", "learner")
    log = KafkaLog(house.settings, linger_ms=5)
    try:
        result = replay(log, world(1_500, 3), spec=house.spec, options=ReplayOptions(), clock=Clock(), notify=print)
        learned_at_least(house, result.played.examples)
    finally:
        house.end()
        log.close()
    found = CheckpointFiles(house.settings.local / "checkpoints" / f"{topic_prefix}small").newest()
    assert found is not None
    assert found.meta.examples == result.played.examples
    kept, learned = result.statistics.table.rows(), found.arrays["statistics"]
    kept, learned = kept[np.argsort(kept[:, 0])], learned[np.argsort(learned[:, 0])]
    np.testing.assert_array_equal(kept[:, 0], learned[:, 0])
    kept_values, learned_values = kept.view(np.float64)[:, 1:], np.ascontiguousarray(learned).view(np.float64)[:, 1:]
    np.testing.assert_array_equal(kept_values[:, [0, 2]], learned_values[:, [0, 2]])
    np.testing.assert_allclose(kept_values[:, 1], learned_values[:, 1], atol=1e-9)
