"""A machine is lost, then Kafka, too: what `thalweg backup` kept is enough, on real Kafka and Redis."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from learner.checkpoints.checkpoint import Checkpoint, restore
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.retraining.retrain_files import checkpoints_of
from producers.clock import Clock
from producers.replay import ReplayOptions, replay
from producers.source import WorldEvent
from stream.events.topics import EVENTS, EXAMPLES, HISTORIES, ITEMS, USERS
from stream.events.types import Erase, Impression, Install
from stream.history.erasing import read_erased
from stream.history.profiles import user_key
from stream.log.kafka_admin import describe_topics
from stream.log.kafka_log import KafkaLog
from stream.snapshots.manifest import Manifest
from stream.snapshots.redis_client import connect
from stream.snapshots.redis_store import RedisStore
from tests.support.forked_services import Nest
from tests.support.learned_models import assert_same
from tests.support.waiting import wait_until
from tests.support.whole_system import House, world
from thalweg.cli.main import app
from thalweg.stack.stack import Stack, down, up
from thalweg.views.erasure import write_erasure

pytestmark = pytest.mark.timeout(600)

PAGES = 300
DAY_MS = 86_400_000
COMPACTED = (ITEMS.name, USERS.name, HISTORIES.name)


def run(house: House, *arguments: str, local: str = "", code: int = 0) -> str:
    """A command with the house's settings, on its machine or one beside it; what it prints."""
    settings = house.settings
    named = {"kafka": settings.kafka, "redis": settings.redis, "topic_prefix": settings.topic_prefix}
    variables = {
        f"THALWEG_{name.upper()}": str(value) for name, value in (named | {"local": settings.local / local}).items()
    }
    done = CliRunner().invoke(app, [*arguments, "--spec", str(house.spec_file)], env=variables, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


def learned(house: House, log: KafkaLog, examples: int) -> None:
    """Wait until the learner has so many examples, duplicates included, and has reached the end of `examples`."""

    def is_learned() -> bool:
        seen = sum(house.metric("learner", f"thalweg_learner_{name}_total") for name in ("examples", "duplicates"))
        return seen >= examples and house.metric("learner", "thalweg_learner_offset") >= log.ends(EXAMPLES.name)[0]

    wait_until(is_learned, f"{examples} examples to be learned")


def renamed(event: WorldEvent, run: int) -> WorldEvent:
    """Pages and installs of this run, a day after those of the run before."""
    if isinstance(event, Impression):
        return replace(event, request_id=f"{run}-{event.request_id}", time_ms=event.time_ms + run * DAY_MS)
    if isinstance(event, Install):
        ids = {"request_id": f"{run}-{event.request_id}", "install_id": f"{run}-{event.install_id}"}
        return replace(event, **ids, time_ms=event.time_ms + run * DAY_MS)
    return event


def play(house: House, log: KafkaLog, run: int) -> None:
    """Pages and installs, and ticks at the end."""
    events = (renamed(event, run) for event in world(PAGES, run))
    replay(log, events, spec=house.spec, options=ReplayOptions(None), clock=Clock(), notify=print)


def newest(house: House) -> Checkpoint:
    """The learner's."""
    found = CheckpointFiles(checkpoints_of(house.settings, house.spec.name), owned=False).newest()
    assert found is not None
    return found


def head(house: House) -> Manifest | None:
    """The live version."""
    with closing(RedisStore(house.settings, house.spec.name)) as store:
        live = store.head()
        return store.manifest(live.version) if live else None


def lose_the_disk(house: House, target: str) -> None:
    """The learner learns on after its backup, and loses its disk; Kafka and Redis are there."""
    with closing(KafkaLog(house.settings)) as log:
        house.start("joiner", "learner")
        play(house, log, 1)
        learned(house, log, 3 * PAGES)
        house.end("learner")
        assert "examples" in run(house, "backup", target)
        house.start("learner")
        end = log.ends(EXAMPLES.name)[0]
        write_erasure(log, Erase("u3", 1))
        wait_until(lambda: log.ends(EXAMPLES.name)[0] > end, "the erasure to be passed on")
        learned(house, log, 3 * PAGES)
        house.end("learner")
        expected = newest(house)
        shutil.rmtree(checkpoints_of(house.settings, house.spec.name).parent)
        assert "start the learner" in run(house, "restore", target)
        assert newest(house).meta.offset < expected.meta.offset
        house.start("learner")
        learned(house, log, 3 * PAGES)
        house.end("learner")
        assert newest(house).meta.offset == expected.meta.offset
        assert_same(restore(house.spec, newest(house)), restore(house.spec, expected))


def lose_kafka(house: House, target: str, live: Manifest, examples: int) -> None:
    """Nothing but the backup and Redis is there; the house has another broker."""
    printed = run(house, "restore", target, "--rebase")
    assert "1 users are erased again" in printed
    assert "next offset 0" in printed
    with closing(KafkaLog(house.settings)) as log:
        assert read_erased(log) == {"u3": 1}
        assert sum(log.ends(EVENTS.name).values()) == 1, "the erasure, sent again"
        house.start("joiner", "learner")
        play(house, log, 1)  # producers send again what they don't know to be lost
        learned(house, log, 6 * PAGES)
        assert house.metric("learner", "thalweg_learner_duplicates_total") > 2 * PAGES
        play(house, log, 2)
        learned(house, log, 9 * PAGES)
    wait_until(lambda: (head(house) or live).examples > examples, "a version of the new log")
    new = head(house)
    assert new is not None
    assert new.version > live.version
    assert new.position > live.position
    assert new.offset[0] < live.offset[0] * 3, "offsets of the new log"


def lose_kafka_and_redis(house: House, target: str, live: Manifest) -> None:
    """Nothing but the backup is there, which is of a log that was new once; the house has other servers."""
    assert "1 users are erased again" in run(house, "restore", target, "--rebase")
    with closing(KafkaLog(house.settings)) as log:
        house.start("joiner", "learner")
        play(house, log, 3)
    wait_until(lambda: (head(house) or live).examples > live.examples, "a version in the new Redis")
    new = head(house)
    assert new is not None
    assert new.version > live.version
    assert new.position > live.position
    with closing(connect(house.settings)) as client:
        assert client.exists(user_key("u1", house.settings.topic_prefix)), "users are copied again"


def test_a_lost_disk_then_a_lost_kafka_then_both_servers(
    nest: Nest, stack: Stack, topic_prefix: str, tmp_path: Path
) -> None:
    """After the disk's loss it ends in the same bits. After Kafka's, topics, users and the model come back."""
    house, target = House(nest, stack, topic_prefix, tmp_path), str(tmp_path / "backups")
    settings = house.settings
    try:
        lose_the_disk(house, target)
        run(house, "backup", target, "--keep", "1")
        assert run(house, "backup", target, "--list").count("+00:00") == 1
        house.end()
        described, examples, live = describe_topics(settings), newest(house).meta.examples, head(house)
        with closing(KafkaLog(settings)) as log:
            ends = {topic: log.ends(topic) for topic in COMPACTED}
        shutil.rmtree(settings.local)
        other = up(tmp_path / "other")
        assert live is not None
        house.settings = settings.model_copy(update={"kafka": other.kafka})
        lose_kafka(house, target, live, examples)
        house.end()
        assert describe_topics(house.settings) == described
        with closing(KafkaLog(house.settings)) as log:
            assert all(sum(log.ends(topic).values()) >= sum(of.values()) > 0 for topic, of in ends.items())
        run(house, "backup", target)
        refused = run(house, "restore", target, "--rebase", local="elsewhere", code=1)
        assert "restore without --rebase" in " ".join(refused.split()), "Kafka isn't lost"
        live = head(house)
        assert live is not None
        shutil.rmtree(settings.local)
        down(tmp_path / "other")
        third = up(tmp_path / "third")
        house.settings = settings.model_copy(update={"kafka": third.kafka, "redis": third.redis})
        lose_kafka_and_redis(house, target, live)
    finally:
        house.end()
        down(tmp_path / "other")
        down(tmp_path / "third")
