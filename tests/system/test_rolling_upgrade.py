"""Release 0.2 is upgraded under load, room by room, in several orders, on real Kafka and Redis; once it goes back."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from learner.checkpoints.checkpoint import restore
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.file_format import version_of
from learner.training.dedup import source_of
from learner.training.model import Model
from producers.clock import Clock
from producers.replay import ReplayOptions, ReplayResult, replay
from producers.source import WorldEvent
from stream.events.codec import decode_training, encode_record
from stream.events.topics import EVENTS, EXAMPLES, HOUR_MS
from stream.events.types import Impression, Tick
from stream.log.kafka_groups import group_commits
from stream.log.kafka_log import KafkaLog
from stream.log.log_scan import read_range
from stream.log.protocol import START
from stream.runtime.formats import CHECKPOINT
from tests.support.event_flow import SOAK
from tests.support.learned_models import state_of
from tests.support.mixed_builds import MixedBuilds
from tests.support.old_release import old_release
from tests.support.ranker_world import Load
from tests.support.waiting import wait_until
from tests.support.whole_system import world
from thalweg.audit.audit import audit, joiner_progress
from thalweg.audit.committed_rules import GROUP
from thalweg.audit.findings import AuditReport
from thalweg.audit.rules import audit_rules
from thalweg.stack.stack import Stack

pytestmark = [
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(not SOAK, reason="takes minutes: `make soak`; tests/formats/ has what is quick of it"),
]

ROOMS: Final = ("joiner-0", "learner-0", "ranker-a", "ranker-b")
BACK: Final = (("old", "learner-0"), ("old", "joiner-0"), ("old", "ranker-a"))
AGAIN: Final = tuple(("new", name) for _, name in reversed(BACK))
ORDERS: Final = {
    "joiner first": ("joiner-0", "learner-0", "ranker-a", "ranker-b"),
    "ranker first": ("ranker-a", "ranker-b", "learner-0", "joiner-0"),
}
PAGES_A_STEP: Final = 100
RATE: Final = 50.0  # pages/s
ASKED_AT_ONCE: Final = 100


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the release before."""
    return old_release(tmp_path_factory.mktemp("old"))


class Player:
    """Replays a world in a thread of its own, PAGES_A_STEP further with each step."""

    def __init__(self, builds: MixedBuilds, log: KafkaLog, steps: int) -> None:
        self.steps_done = 0
        self.result: ReplayResult | None = None
        self._builds, self._log, self._steps = builds, log, steps
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def step(self) -> None:
        """Let the world go on, and wait until the learner has learned of it."""
        before = self._builds.metric("learner-0", "thalweg_learner_examples_total")
        self.steps_done += 1
        wait_until(
            lambda: self._builds.metric("learner-0", "thalweg_learner_examples_total") > max(before, 0.0),
            "the learner to learn more",
        )

    def finish(self) -> None:
        """To the end of the world, and of corrections."""
        self.steps_done = self._steps
        self._thread.join(120)
        assert self.result is not None, "the replay didn't end"
        for partition in range(self._builds.settings.partitions):
            tick = Tick(self.result.played.last_ms + HOUR_MS)
            self._log.send(EVENTS.name, partition, encode_record([tick]))

    def _play(self) -> None:
        spec, options = self._builds.spec, ReplayOptions(RATE)
        self.result = replay(self._log, self._events(), spec=spec, options=options, clock=Clock(), notify=print)

    def _events(self) -> Iterator[WorldEvent]:
        pages = 0
        for event in world(PAGES_A_STEP * self._steps, 11):
            pages += isinstance(event, Impression)
            while pages > PAGES_A_STEP * (self.steps_done + 1):
                time.sleep(0.01)
            yield event


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_rooms_are_replaced_under_load(
    old: Path, stack: Stack, topic_prefix: str, tmp_path: Path, order: tuple[str, ...]
) -> None:
    """Every example is learned once, weights are those of one learner that learned the log, each request is answered;
    and then release 0.2 is finalized, and its formats end.
    """
    builds = MixedBuilds(old, stack, topic_prefix, tmp_path)
    builds.call("old", "apply-topics")
    steps = [*(("new", name) for name in order), *BACK, *AGAIN]
    log = KafkaLog(builds.settings, linger_ms=5)
    try:
        for name in ROOMS:
            builds.start("old", name)
        player = Player(builds, log, len(steps) + 3)
        wait_until(lambda: builds.metric("ranker-a", "thalweg_ranker_version") > 0, "a version to be served")
        load = Load(log)
        load.wait_for(ASKED_AT_ONCE)
        builds.call("new", "apply-topics")
        for build, name in steps:
            player.step()
            builds.replace(build, name)
            load.wait_for(ASKED_AT_ONCE)
            if build == "old":
                assert name.split("-")[0] in builds.call("new", "apply-topics", "--finalize", code=1)
        assert checkpoint_version(builds) == 1
        assert "release 0.3 from now on" in builds.call("new", "apply-topics", "--finalize")
        builds.replace("new", "learner-0")
        player.step()
        player.finish()
        load.finish()
        report = wait_until(lambda: audited(builds, log), "all labels to be final", every_s=1.0)
        assert report is not None
        examples = report.figures["emitted"] - report.figures["emitted_again"]
        wait_until(
            lambda: builds.metric("learner-0", "thalweg_learner_examples_total") >= examples, f"{examples} examples"
        )
        builds.end()
        assert learned(builds, log) == examples
    finally:
        for process in builds.running.values():
            process.kill()
        log.close()
    print(f"the longest wait for a reply was {max(load.waited_s.values()):.2f} s of {len(load.waited_s)}")
    assert {reply.error for reply in load.caller.replies} == {""}
    assert report.is_clean, report.differences[:5]
    late = report.figures["late"]  # the joiner ticks partitions that are idle while the world waits for a room
    assert report.figures["labels"] + 3 * late >= 3 * PAGES_A_STEP * (len(steps) + 3)
    assert checkpoint_version(builds) == CHECKPOINT.version


def checkpoint_version(builds: MixedBuilds) -> int:
    """Of the newest checkpoint's file."""
    folder = builds.settings.local / "checkpoints" / f"{builds.settings.topic_prefix}small"
    return version_of(max(folder.glob("*.checkpoint")))


def audited(builds: MixedBuilds, log: KafkaLog) -> AuditReport | None:
    """What `thalweg audit` finds; None while some labels aren't final by the joiner's commits."""
    progress = joiner_progress(group_commits(builds.settings, GROUP, EVENTS.name))
    report = audit(log, audit_rules(builds.spec), progress, memory=builds.settings.dedup_ids)
    return report if report.figures["settled"] == report.figures["labels"] else None


def learned(builds: MixedBuilds, log: KafkaLog) -> int:
    """How many examples the newest checkpoint's model has learned; it is, bit for bit, that of one learner alone."""
    model = Model(builds.spec)
    for record in read_range(log, EXAMPLES.name, {0: START}, log.ends(EXAMPLES.name)):
        model.learn(decode_training(record.value or b"")[0], record.offset, source_of(record.key))
    folder = builds.settings.local / "checkpoints" / f"{builds.settings.topic_prefix}small"
    found = CheckpointFiles(folder, owned=False).newest()
    assert found is not None
    assert (found.meta.examples, found.meta.duplicates) == (model.examples, model.duplicates)
    assert state_of(restore(builds.spec, found)) == state_of(model)
    return model.examples
