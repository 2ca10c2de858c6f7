"""A model is retrained and evolves beside its learner, on Kafka: processes, verdicts, promotions, a kill -9 between."""

import threading
from itertools import takewhile
from pathlib import Path

import pytest

from learner.checkpoints.checkpoint_files import CheckpointFiles
from producers.clock import Clock
from producers.replay import ReplayOptions, replay
from stream.events.codec import decode_examples
from stream.events.topics import EXAMPLES
from stream.events.types import Examples
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START
from tests.support.forked_services import ForkedProcess, Nest
from tests.support.waiting import wait_until
from tests.support.whole_system import House, world
from thalweg.stack.stack import Stack

pytestmark = pytest.mark.timeout(400)  # processes on a machine that may be busy

PAGES_MAX = 30_000  # the world ends once both models were promoted
RATE = 50.0  # pages/s: more, and on a busy machine a retrain hardly catches up
TRIES = 3
ADDED = ('price = "number"', 'price = "number"\nsize = "number"'), ('"item.price"', '"item.price", "item.size"')


def test_a_model_is_retrained_and_evolves_while_it_learns(nest: Nest, stack: Stack, tmp_path: Path) -> None:
    """The learner takes both models over, resumes with them after kill -9, and learns every example once."""
    house = House(nest, stack, "retrain.", tmp_path)
    changed = house.spec_file.read_text()
    for there, other in ADDED:
        assert there in changed
        changed = changed.replace(there, other)
    new_spec = tmp_path / "new.toml"
    new_spec.write_text(changed)
    names = ("kafka", "redis", "topic_prefix", "local")
    told = {name: getattr(house.settings, name) for name in names}

    def command(name: str, spec: Path) -> ForkedProcess:
        return nest.run("thalweg", [name, "--spec", str(spec)], told, tmp_path / f"{name}.log")

    house.start("joiner", "learner")
    log = KafkaLog(house.settings, linger_ms=5)
    both = threading.Event()
    events = takewhile(lambda _: not both.is_set(), world(PAGES_MAX, 5))
    played = threading.Thread(
        target=lambda: replay(log, events, spec=house.spec, options=ReplayOptions(RATE), clock=Clock(), notify=print)
    )
    played.start()
    try:
        wait_until(lambda: house.metric("learner", "thalweg_learner_examples_total") > 300, "examples")
        retrain = command("retrain", house.spec_file)
        assert retrain.wait(120.0) == 0, (tmp_path / "retrain.log").read_text()
        wait_until(lambda: house.metric("learner", "thalweg_learner_warm_starts_total") == 1, "a promotion")
        house.kill("learner")
        house.start("learner")
        assert house.metric("learner", "thalweg_learner_warm_starts_total") == 1
        for _ in range(TRIES):  # one that learned little may be judged worse: then it is tried again, as a person would
            evolved = command("evolve", new_spec).wait(120.0)
            said = (tmp_path / "evolve.log").read_text()
            if evolved == 0 or "dropped: it is worse" not in said:
                break
        assert evolved == 0, said
        wait_until(lambda: house.metric("learner", "thalweg_learner_warm_starts_total") == 2, "another promotion")
        both.set()
        house.kill("learner")
        house.spec_file.write_text(changed)
        house.start("learner")
        played.join()
        ids = {example for events in records_of(log) for one in events for example in one.ids}
        wait_until(
            lambda: house.metric("learner", "thalweg_learner_examples_total") == len(ids), f"{len(ids)} examples"
        )
        assert house.metric("learner", "thalweg_learner_dead_letters_total") == 0
        house.end("learner")
        found = CheckpointFiles(house.settings.local / "checkpoints" / "retrain.small", owned=False).newest()
        assert found is not None
        assert (found.meta.examples, found.meta.warm_starts) == (len(ids), 2)
    finally:
        both.set()
        played.join()
        house.end()
        log.close()


def records_of(log: KafkaLog) -> list[list[Examples]]:
    """The examples of each record."""
    end, found = log.ends(EXAMPLES.name)[0], list[list[Examples]]()
    reader = log.reader(EXAMPLES.name, {0: START})
    while reader.positions()[0] < end:
        found += [decode_examples(record.value or b"")[0] for record in reader.poll(0.2)]
    reader.close()
    return found
